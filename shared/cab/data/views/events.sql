-- Every audit event once: one row for each event_id, whatever else differs. At-least-once delivery writes some rows twice;
-- the first one received stands for all, and a second content under its id is in `chain_gaps`. The table refuses queries
-- that name no time: the view names the retention, and `events_between` the days that are asked for. That an id came again
-- with another instant is seen from the row alone: an id (UUIDv7) has the time at which it was made, and an event happens
-- within the hour of it. Only what is said later of an earlier moment has another: a flood that was counted, a token that
-- was taken back.
-- `contested` says that another row has this id and instant and says something else: somebody wrote that beside the broker,
-- and which of the two is true `cab audit verify-chain` tells. Whoever does not select it does not pay for it.
-- A token whose event was not acknowledged in time never left, though that event says `issued` and may have come all
-- the same: `token.withheld` takes it back, at the same instant, so that no other day has to be read, and in the same chain:
-- nobody else knows, and who may publish must not hide what another process issued. A process that was killed cannot say so any
-- more: where nothing came of its chain for an hour, what no later event of it vouches for (`chain.settled`) is `unconfirmed`.
-- `ended` reads three narrow columns, of the two days after as well: a process may say nothing for so long.
WITH ended AS (
  SELECT chain.id AS chain_id, MAX(chain.settled) AS settled
  FROM `${project}.${dataset}.events_raw`
  WHERE occurred_at >= ${since} AND occurred_at < TIMESTAMP_ADD(${until}, INTERVAL 2 DAY)
  GROUP BY chain_id
  HAVING MAX(chain.settled) IS NOT NULL AND MAX(received_at) < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 HOUR)
)
SELECT
  raw.* REPLACE (
    CASE
      WHEN raw.outcome != 'issued' OR raw.outcome IS NULL THEN raw.outcome
      WHEN
        LOGICAL_OR(raw.event_type = 'token.withheld')
          OVER (PARTITION BY COALESCE(raw.corrects, raw.event_id), raw.occurred_at, raw.chain.id)
        THEN 'withheld'
      WHEN raw.chain.seq > ended.settled THEN 'unconfirmed'
      ELSE 'issued'
    END AS outcome
  ),
  MIN(TO_JSON_STRING(STRUCT(raw.`event_type`, raw.`occurred_at`, raw.`schema_version`, raw.`tenant`, raw.`subject`, raw.`actor`, raw.`tool`, raw.`intent`, raw.`task`, raw.`decision`, raw.`reason_code`, raw.`why`, raw.`unverified`, raw.`policy`, raw.`scopes`, raw.`token`, raw.`grant`, raw.`call`, raw.`observed_by`, raw.`confirmation_id`, raw.`outcome`, raw.`corrects`, raw.`count`, raw.`latency_ms`, raw.`txn`, raw.`trace_id`, raw.`caller_ip_prefix`, raw.subject_key, raw.connection, raw.action)))
    OVER (PARTITION BY raw.event_id, raw.occurred_at)
  != MAX(TO_JSON_STRING(STRUCT(raw.`event_type`, raw.`occurred_at`, raw.`schema_version`, raw.`tenant`, raw.`subject`, raw.`actor`, raw.`tool`, raw.`intent`, raw.`task`, raw.`decision`, raw.`reason_code`, raw.`why`, raw.`unverified`, raw.`policy`, raw.`scopes`, raw.`token`, raw.`grant`, raw.`call`, raw.`observed_by`, raw.`confirmation_id`, raw.`outcome`, raw.`corrects`, raw.`count`, raw.`latency_ms`, raw.`txn`, raw.`trace_id`, raw.`caller_ip_prefix`, raw.subject_key, raw.connection, raw.action)))
    OVER (PARTITION BY raw.event_id, raw.occurred_at) AS contested
FROM `${project}.${dataset}.events_raw` AS raw
LEFT JOIN ended ON ended.chain_id = raw.chain.id
WHERE
  raw.occurred_at >= ${since}
  AND raw.occurred_at < ${until}
  AND NOT COALESCE(REGEXP_CONTAINS(raw.event_id, r'^[0-9a-f]{8}-[0-9a-f]{4}-7') AND raw.event_type NOT IN ('token.withheld', 'requests.refused.counted') AND ABS(TIMESTAMP_DIFF(raw.occurred_at, TIMESTAMP_MILLIS(SAFE_CAST(CONCAT('0x', SUBSTR(raw.event_id, 1, 8), SUBSTR(raw.event_id, 10, 4)) AS INT64)), SECOND)) > 3600, FALSE)
QUALIFY ROW_NUMBER() OVER (PARTITION BY raw.event_id, raw.occurred_at ORDER BY raw.received_at, raw.message_id) = 1

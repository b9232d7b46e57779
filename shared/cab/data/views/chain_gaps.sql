-- Where the record is not whole. Each process chains its events: an event that is missing, edited or out of its place
-- breaks the chain after it. An empty answer is proof for all chains up to their last event; the events of the last
-- seconds may still be on their way. Chains are followed from their start: let a period of `chain_gaps_between` begin 30 days
-- before the days that you look at, as `verify-chain` does. `open` chains have not ended: fine while the process lives. One that said nothing for
-- an hour and did not close is `ended_without_close`: its process idles, was killed, or its last events were removed; the
-- noted heads of `verify-chain` tell which. `other_content` is an event that has the id of an earlier one and says something else: `events` shows
-- the earlier one. An event published twice has two places in the chains, so its place is no part of its content.
-- `other_instant` is an event whose id was made at another time than it says that it happened: `events` leaves it out.
-- `copy_differs` is a second row of one place and hash whose columns say something else: no function of ours writes that.
-- One scan of the table: no expression is named twice.
WITH told AS (
  -- From the raw table: an event that was published twice has two places in the chains, and `events` shows it once.
  SELECT
    service.function AS function_name,
    chain.id AS chain_id,
    chain.seq AS seq,
    chain.prev_hash AS prev_hash,
    chain.`hash` AS stated_hash,
    event_type,
    event_id,
    occurred_at,
    received_at,
    message_id,
    SHA256(REGEXP_REPLACE(event_json, r'"(chain|service)":[{][^{}]*[}],?', '')) AS content,
    COALESCE(REGEXP_CONTAINS(raw.event_id, r'^[0-9a-f]{8}-[0-9a-f]{4}-7') AND raw.event_type NOT IN ('token.withheld', 'requests.refused.counted') AND ABS(TIMESTAMP_DIFF(raw.occurred_at, TIMESTAMP_MILLIS(SAFE_CAST(CONCAT('0x', SUBSTR(raw.event_id, 1, 8), SUBSTR(raw.event_id, 10, 4)) AS INT64)), SECOND)) > 3600, FALSE) AS is_moved,
    chain.id IS NOT NULL AND ROW_NUMBER() OVER (place ORDER BY received_at, message_id) = 1 AS is_place,
    MIN(TO_JSON_STRING(STRUCT(raw.`event_type`, raw.`occurred_at`, raw.`schema_version`, raw.`tenant`, raw.`subject`, raw.`actor`, raw.`tool`, raw.`intent`, raw.`task`, raw.`decision`, raw.`reason_code`, raw.`why`, raw.`unverified`, raw.`policy`, raw.`scopes`, raw.`token`, raw.`grant`, raw.`call`, raw.`observed_by`, raw.`confirmation_id`, raw.`outcome`, raw.`corrects`, raw.`count`, raw.`latency_ms`, raw.`txn`, raw.`trace_id`, raw.`caller_ip_prefix`, raw.subject_key, raw.connection, raw.action))) OVER place
    != MAX(TO_JSON_STRING(STRUCT(raw.`event_type`, raw.`occurred_at`, raw.`schema_version`, raw.`tenant`, raw.`subject`, raw.`actor`, raw.`tool`, raw.`intent`, raw.`task`, raw.`decision`, raw.`reason_code`, raw.`why`, raw.`unverified`, raw.`policy`, raw.`scopes`, raw.`token`, raw.`grant`, raw.`call`, raw.`observed_by`, raw.`confirmation_id`, raw.`outcome`, raw.`corrects`, raw.`count`, raw.`latency_ms`, raw.`txn`, raw.`trace_id`, raw.`caller_ip_prefix`, raw.subject_key, raw.connection, raw.action))) OVER place AS is_contested
  FROM `${project}.${dataset}.events_raw` AS raw
  WHERE occurred_at >= ${since} AND occurred_at < ${until}
  WINDOW place AS (PARTITION BY chain.id, chain.seq, chain.`hash`)
),
links AS (
  SELECT
    *,
    LAG(seq) OVER chain_order AS seq_before,
    LAG(stated_hash) OVER chain_order AS hash_before,
    LEAD(seq) OVER chain_order IS NULL AS is_last,
    FIRST_VALUE(content) OVER (PARTITION BY event_id ORDER BY content IS NULL, received_at, message_id) AS first_content,
    ROW_NUMBER() OVER (PARTITION BY event_id, content ORDER BY received_at, message_id) AS number_of_content
  FROM told
  WINDOW chain_order AS (PARTITION BY chain_id, is_place ORDER BY seq)
)
SELECT
  found.gap,
  function_name,
  chain_id,
  found.after_seq,
  found.before_seq,
  found.missing_events,
  event_id AS found_at_event,
  occurred_at
FROM
  links,
  UNNEST([
    STRUCT(
      CASE
        WHEN NOT is_place THEN NULL
        WHEN seq_before IS NULL AND seq > 1 THEN 'missing'
        WHEN seq_before IS NOT NULL AND seq > seq_before + 1 THEN 'missing'
        WHEN seq_before IS NOT NULL AND seq = seq_before THEN 'forked'
        WHEN COALESCE(hash_before, '') != prev_hash THEN 'broken'
      END AS gap,
      COALESCE(seq_before, 0) AS after_seq,
      seq AS before_seq,
      seq - COALESCE(seq_before, 0) - 1 AS missing_events
    ),
    STRUCT(
      IF(
        is_place AND is_last AND event_type != 'chain.closed',
        IF(occurred_at < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 HOUR), 'ended_without_close', 'open'),
        NULL
      ) AS gap,
      seq AS after_seq,
      CAST(NULL AS INT64) AS before_seq,
      CAST(NULL AS INT64) AS missing_events
    ),
    STRUCT(
      IF(content != first_content AND number_of_content = 1, 'other_content', NULL) AS gap,
      CAST(NULL AS INT64) AS after_seq,
      seq AS before_seq,
      CAST(NULL AS INT64) AS missing_events
    ),
    STRUCT(
      IF(is_place AND is_contested, 'copy_differs', NULL) AS gap,
      CAST(NULL AS INT64) AS after_seq,
      seq AS before_seq,
      CAST(NULL AS INT64) AS missing_events
    ),
    STRUCT(
      IF(is_place AND is_moved, 'other_instant', NULL) AS gap,
      CAST(NULL AS INT64) AS after_seq,
      seq AS before_seq,
      CAST(NULL AS INT64) AS missing_events
    )
  ]) AS found
WHERE found.gap IS NOT NULL

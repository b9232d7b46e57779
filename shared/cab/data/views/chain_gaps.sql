-- Where the record is not whole. Each process chains its events: an event that is missing, edited or out of its place
-- breaks the chain after it. An empty answer is proof for all chains up to their last event; the events of the last
-- seconds may still be on their way. Chains are followed from their start: let a period of `chain_gaps_between` begin 30 days
-- before the days that you look at, as `verify-chain` does. `open` chains have not ended: fine while the process lives. One that said nothing for
-- an hour and did not close is `ended_without_close`: its process idles, was killed, or its last events were removed; the
-- noted heads of `verify-chain` tell which. `other_content` is an event that has the id of an earlier one and says something else: `events` shows
-- the earlier one. An event published twice has two places in the chains, so its place is no part of its content.
-- `other_instant` is an event whose id was made at another time than it says that it happened: `events` leaves it out.
-- `copy_differs` is a second row of one place and hash whose columns say something else: no function of ours writes that.
WITH places AS (
  -- From the raw table: an event that was published twice has two places in the chains, and `events` shows it once.
  SELECT *
  FROM `${project}.${dataset}.events_raw`
  WHERE occurred_at >= ${since} AND occurred_at < ${until} AND chain.id IS NOT NULL
  QUALIFY ROW_NUMBER() OVER (PARTITION BY chain.id, chain.seq, chain.`hash` ORDER BY received_at, message_id) = 1
),
links AS (
  SELECT
    service.function AS function_name,
    chain.id AS chain_id,
    chain.seq AS seq,
    chain.prev_hash AS prev_hash,
    event_type,
    event_id,
    occurred_at,
    LAG(chain.seq) OVER (PARTITION BY chain.id ORDER BY chain.seq) AS seq_before,
    LAG(chain.`hash`) OVER (PARTITION BY chain.id ORDER BY chain.seq) AS hash_before,
    LEAD(chain.seq) OVER (PARTITION BY chain.id ORDER BY chain.seq) AS seq_after
  FROM places
),
judged AS (
  SELECT
    *,
    CASE
      WHEN seq_before IS NULL AND seq > 1 THEN 'missing'
      WHEN seq_before IS NOT NULL AND seq > seq_before + 1 THEN 'missing'
      WHEN seq_before IS NOT NULL AND seq = seq_before THEN 'forked'
      WHEN COALESCE(hash_before, '') != prev_hash THEN 'broken'
    END AS gap
  FROM links
),
contents AS (
  SELECT
    service.function AS function_name,
    chain.id AS chain_id,
    chain.seq AS seq,
    event_id,
    occurred_at,
    received_at,
    message_id,
    SHA256(REGEXP_REPLACE(event_json, r'"(chain|service)":[{][^{}]*[}],?', '')) AS content
  FROM `${project}.${dataset}.events_raw`
  WHERE
    occurred_at >= ${since} AND occurred_at < ${until} AND event_json IS NOT NULL
),
told AS (
  SELECT *, FIRST_VALUE(content) OVER (PARTITION BY event_id ORDER BY received_at, message_id) AS first_content
  FROM contents
),
others AS (
  SELECT *
  FROM told
  WHERE content != first_content
  QUALIFY ROW_NUMBER() OVER (PARTITION BY event_id, content ORDER BY received_at, message_id) = 1
),
copies AS (
  SELECT
    service.function AS function_name,
    chain.id AS chain_id,
    chain.seq AS seq,
    event_id,
    occurred_at,
    MIN(TO_JSON_STRING(STRUCT(raw.`event_type`, raw.`occurred_at`, raw.`schema_version`, raw.`tenant`, raw.`subject`, raw.`actor`, raw.`tool`, raw.`intent`, raw.`task`, raw.`decision`, raw.`reason_code`, raw.`why`, raw.`unverified`, raw.`policy`, raw.`scopes`, raw.`token`, raw.`grant`, raw.`call`, raw.`observed_by`, raw.`confirmation_id`, raw.`outcome`, raw.`corrects`, raw.`count`, raw.`latency_ms`, raw.`txn`, raw.`trace_id`, raw.`caller_ip_prefix`, raw.subject_key, raw.connection, raw.action))) OVER place
    != MAX(TO_JSON_STRING(STRUCT(raw.`event_type`, raw.`occurred_at`, raw.`schema_version`, raw.`tenant`, raw.`subject`, raw.`actor`, raw.`tool`, raw.`intent`, raw.`task`, raw.`decision`, raw.`reason_code`, raw.`why`, raw.`unverified`, raw.`policy`, raw.`scopes`, raw.`token`, raw.`grant`, raw.`call`, raw.`observed_by`, raw.`confirmation_id`, raw.`outcome`, raw.`corrects`, raw.`count`, raw.`latency_ms`, raw.`txn`, raw.`trace_id`, raw.`caller_ip_prefix`, raw.subject_key, raw.connection, raw.action))) OVER place AS is_contested
  FROM `${project}.${dataset}.events_raw` AS raw
  WHERE occurred_at >= ${since} AND occurred_at < ${until} AND chain.id IS NOT NULL
  QUALIFY ROW_NUMBER() OVER (PARTITION BY chain.id, chain.seq, chain.`hash` ORDER BY received_at, message_id) = 1
  WINDOW place AS (PARTITION BY chain.id, chain.seq, chain.`hash`)
)
SELECT
  gap,
  function_name,
  chain_id,
  COALESCE(seq_before, 0) AS after_seq,
  seq AS before_seq,
  seq - COALESCE(seq_before, 0) - 1 AS missing_events,
  event_id AS found_at_event,
  occurred_at
FROM judged
WHERE gap IS NOT NULL
UNION ALL
SELECT
  IF(occurred_at < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 HOUR), 'ended_without_close', 'open') AS gap,
  function_name,
  chain_id,
  seq AS after_seq,
  CAST(NULL AS INT64) AS before_seq,
  CAST(NULL AS INT64) AS missing_events,
  event_id AS found_at_event,
  occurred_at
FROM judged
WHERE seq_after IS NULL AND event_type != 'chain.closed'
UNION ALL
SELECT
  'other_content' AS gap,
  function_name,
  chain_id,
  CAST(NULL AS INT64) AS after_seq,
  seq AS before_seq,
  CAST(NULL AS INT64) AS missing_events,
  event_id AS found_at_event,
  occurred_at
FROM others
UNION ALL
SELECT
  'copy_differs' AS gap,
  function_name,
  chain_id,
  CAST(NULL AS INT64) AS after_seq,
  seq AS before_seq,
  CAST(NULL AS INT64) AS missing_events,
  event_id AS found_at_event,
  occurred_at
FROM copies
WHERE is_contested
UNION ALL
SELECT
  'other_instant' AS gap,
  function_name,
  chain_id,
  CAST(NULL AS INT64) AS after_seq,
  seq AS before_seq,
  CAST(NULL AS INT64) AS missing_events,
  event_id AS found_at_event,
  occurred_at
FROM links AS raw
WHERE COALESCE(REGEXP_CONTAINS(raw.event_id, r'^[0-9a-f]{8}-[0-9a-f]{4}-7') AND raw.event_type NOT IN ('token.withheld', 'requests.refused.counted') AND ABS(TIMESTAMP_DIFF(raw.occurred_at, TIMESTAMP_MILLIS(SAFE_CAST(CONCAT('0x', SUBSTR(raw.event_id, 1, 8), SUBSTR(raw.event_id, 10, 4)) AS INT64)), SECOND)) > 3600, FALSE)

-- Where the record is not whole. Each process chains its events: an event that is missing, edited or out of its place
-- breaks the chain after it. An empty answer is proof for all chains up to their last event; the events of the last
-- seconds may still be on their way. `open` chains have not ended: fine while the process lives, else its last events
-- may be missing. `other_content` is an event that has the id of an earlier one and says something else: `events` shows
-- the earlier one. An event published twice has two places in the chains, so its place is no part of its content.
WITH places AS (
  -- From the raw table: an event that was published twice has two places in the chains, and `events` shows it once.
  SELECT *
  FROM `${project}.${dataset}.events_raw`
  WHERE occurred_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL ${retention_days} DAY) AND chain.id IS NOT NULL
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
    occurred_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL ${retention_days} DAY) AND event_json IS NOT NULL
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
  'open' AS gap,
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

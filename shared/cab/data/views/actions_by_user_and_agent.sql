-- Who did what through whom: one row per day, user, agent and action. `requests` asked for a token or a call; `executed`,
-- `failed` and `unknown_outcome` are what came of those of which somebody said it. A token of which both the agent and its
-- resource say it counts once a day, by the resource's word; of several of those by the one that something was done.
WITH facts AS (
  SELECT
    *,
    ROW_NUMBER() OVER (
      PARTITION BY
        TIMESTAMP_TRUNC(occurred_at, DAY), tenant, txn, event_type, actor.agent_id, events.token.sha256, intent.intent_hash
      ORDER BY
        IF(observed_by = 'resource', 0, 1), IF(outcome = 'executed', 0, IF(outcome = 'unknown', 1, 2)), occurred_at, event_id
    ) AS word
  FROM ${events} AS events
  WHERE event_type IN ('exchange.decided', 'tool.executed')
)
SELECT
  TIMESTAMP_TRUNC(occurred_at, DAY) AS day,
  tenant,
  subject_key,
  actor.agent_id AS agent_id,
  connection,
  action,
  MAX(tool.effect) AS effect,
  COUNTIF(event_type = 'exchange.decided') AS requests,
  COUNTIF(outcome = 'issued') AS issued,
  COUNTIF(outcome = 'executed') AS executed,
  COUNTIF(event_type = 'exchange.decided' AND outcome IN ('refused', 'withheld')) AS refused,
  COUNTIF(outcome = 'failed') AS failed,
  COUNTIF(outcome = 'unknown') AS unknown_outcome,
  COUNTIF(confirmation_id IS NOT NULL AND outcome = 'issued') AS confirmed_by_user,
  MIN(occurred_at) AS first_at,
  MAX(occurred_at) AS last_at
FROM facts AS events
WHERE event_type = 'exchange.decided' OR events.token.sha256 IS NULL OR word = 1
GROUP BY day, tenant, subject_key, agent_id, connection, action

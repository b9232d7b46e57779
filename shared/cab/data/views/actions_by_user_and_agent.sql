-- Who did what through whom: one row per day, user, agent and action. `requests` asked for a token or a call; `executed`,
-- `failed` and `unknown_outcome` are what came of those of which somebody said it.
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
  COUNTIF(outcome IN ('refused', 'withheld')) AS refused,
  COUNTIF(outcome = 'failed') AS failed,
  COUNTIF(outcome = 'unknown') AS unknown_outcome,
  COUNTIF(confirmation_id IS NOT NULL AND outcome = 'issued') AS confirmed_by_user,
  MIN(occurred_at) AS first_at,
  MAX(occurred_at) AS last_at
FROM ${events}
WHERE event_type IN ('exchange.decided', 'tool.executed')
GROUP BY day, tenant, subject_key, agent_id, connection, action

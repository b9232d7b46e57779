-- How much each agent did, by day: decisions as decisions, tokens as tokens (one handed out twice is one), calls as calls.
SELECT
  counted.day,
  counted.tenant,
  agents.team,
  agents.owner,
  counted.agent_id,
  counted.decisions,
  counted.issued,
  counted.refused,
  counted.asked,
  counted.tokens,
  counted.calls,
  counted.users
FROM (
  SELECT
    TIMESTAMP_TRUNC(occurred_at, DAY) AS day,
    tenant,
    actor.agent_id AS agent_id,
    COUNT(*) AS decisions,
    COUNTIF(outcome = 'issued') AS issued,
    COUNTIF(
      outcome = 'withheld'
      OR (outcome = 'refused' AND reason_code NOT IN ('confirmation_required', 'authorization_pending'))
    ) AS refused,
    COUNTIF(reason_code IN ('confirmation_required', 'authorization_pending')) AS asked,
    COUNT(DISTINCT IF(
      outcome = 'issued' AND events.call.id IS NULL AND COALESCE(events.token.kind, '') NOT IN ('assertion', 'call'),
      COALESCE(events.token.sha256, event_id),
      NULL
    )) AS tokens,
    COUNT(DISTINCT IF(outcome = 'issued', CONCAT(subject_key, ' ', events.call.id), NULL)) AS calls,
    COUNT(DISTINCT subject_key) AS users
  FROM ${events} AS events
  WHERE event_type = 'exchange.decided' AND actor.agent_id IS NOT NULL
  GROUP BY day, tenant, agent_id
) AS counted
LEFT JOIN `${project}.${dataset}.agents` AS agents
  ON agents.tenant = counted.tenant AND agents.agent_id = counted.agent_id

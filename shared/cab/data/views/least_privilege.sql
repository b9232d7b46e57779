-- What each agent may ask for and what it did ask for: an action that was allowed and never used in the days that are read can go.
SELECT
  agents.tenant,
  agents.agent_id,
  agents.owner,
  agents.team,
  allowed AS action,
  COALESCE(used.times, 0) AS times,
  COALESCE(used.users, 0) AS users,
  used.last_at AS last_used_at
FROM `${project}.${dataset}.agents` AS agents
CROSS JOIN UNNEST(agents.actions) AS allowed
LEFT JOIN (
  SELECT
    tenant,
    actor.agent_id AS agent_id,
    action,
    COUNT(*) AS times,
    COUNT(DISTINCT subject_key) AS users,
    MAX(occurred_at) AS last_at
  FROM ${events}
  WHERE event_type = 'exchange.decided' AND outcome IN ('issued', 'unconfirmed')
  GROUP BY tenant, agent_id, action
) AS used
  ON used.tenant = agents.tenant AND used.agent_id = agents.agent_id AND used.action = allowed

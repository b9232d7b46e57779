-- When something was seen for the first time among the days that are read: an agent with an action, an agent for a user, an agent from a
-- network, a client from a network. What is new yesterday and never before is where to look first. `first_seen_between`
-- calls new what was not there before in the days asked.
SELECT
  tenant,
  link.kind,
  link.who,
  link.what,
  MIN(occurred_at) AS first_at,
  MAX(occurred_at) AS last_at,
  COUNT(*) AS times
FROM
  ${events} AS events,
  UNNEST([
    STRUCT('agent_action' AS kind, actor.agent_id AS who, action AS what),
    STRUCT('agent_user' AS kind, actor.agent_id AS who, subject_key AS what),
    STRUCT('agent_network' AS kind, actor.agent_id AS who, caller_ip_prefix AS what),
    STRUCT(
      'front_end_network' AS kind, IF(event_type = 'assertion.minted', actor.client_id, NULL) AS who, caller_ip_prefix AS what
    )
  ]) AS link
WHERE
  event_type IN ('exchange.decided', 'assertion.minted')
  AND link.who IS NOT NULL
  AND link.what IS NOT NULL
  AND NOT (event_type = 'assertion.minted' AND link.kind IN ('agent_network', 'agent_action'))
GROUP BY tenant, kind, who, what

-- What could have been done in a user's name: each live grant of each user, and the agents that have acted for the
-- user since. An agent with no row here has had no token of that user in
-- the days that are read.
WITH grant_states AS (
  SELECT
    tenant,
    subject_key,
    connection,
    events.grant.id AS grant_id,
    event_type AS last_event,
    occurred_at AS last_event_at,
    MIN(occurred_at) OVER (PARTITION BY tenant, events.grant.id) AS since
  FROM ${events} AS events
  WHERE
    event_type IN ('grant.connected', 'grant.refreshed', 'grant.needs_reauth', 'grant.revoked', 'grant.quarantined')
    -- What a new consent replaced has ended at the provider; the grant has not.
    AND (events.grant.cause IS NULL OR events.grant.cause != 'replaced by a new consent')
  QUALIFY ROW_NUMBER() OVER (PARTITION BY tenant, events.grant.id ORDER BY occurred_at DESC, event_id DESC) = 1
),
agents AS (
  SELECT
    tenant,
    subject_key,
    connection,
    actor.agent_id AS agent_id,
    COUNT(DISTINCT COALESCE(events.token.sha256, event_id)) AS tokens,
    MAX(occurred_at) AS last_token_at
  FROM ${events} AS events
  WHERE event_type = 'exchange.decided' AND outcome IN ('issued', 'unconfirmed')
  GROUP BY tenant, subject_key, connection, agent_id
)
SELECT
  live.tenant,
  live.subject_key,
  live.connection,
  live.grant_id,
  live.since AS grant_since,
  live.last_event_at AS grant_last_seen_at,
  agents.agent_id,
  COALESCE(agents.tokens, 0) AS tokens,
  agents.last_token_at
FROM grant_states AS live
LEFT JOIN agents
  ON
    agents.tenant = live.tenant
    AND agents.subject_key = live.subject_key
    AND agents.connection = live.connection
WHERE live.last_event IN ('grant.connected', 'grant.refreshed')

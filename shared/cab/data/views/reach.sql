-- Who could be reached, how, and from when until when: after a theft the list of people concerned, also when what let one
-- reach them has ended since. `how` is `grant` (CAB kept a grant of the user at the connection), `token` (the agent was
-- handed one, a broker JWT too), `assertion` (an assertion named the agent: whoever had its key could ask for all that it
-- may), `delegated` (the agent passed an assertion on, or received one so). `until_at` is NULL while it lasts. Ask for a
-- period by `from_at < END AND (until_at IS NULL OR until_at >= BEGIN)`: a grant of long ago may still have been alive, so
-- `reach_between` is to begin when the oldest grant may have been connected: what came before it is not known.
WITH grants AS (
  SELECT
    tenant,
    subject_key,
    CAST(NULL AS STRING) AS agent_id,
    connection,
    events.grant.id AS grant_id,
    'grant' AS how,
    MIN(occurred_at) AS from_at,
    IF(
      MAX(IF(event_type IN ('grant.connected', 'grant.refreshed'), occurred_at, NULL))
      >= COALESCE(
        MAX(IF(event_type IN ('grant.revoked', 'grant.needs_reauth', 'grant.quarantined'), occurred_at, NULL)),
        TIMESTAMP '1970-01-01 00:00:00+00'
      ),
      NULL,
      MAX(IF(event_type IN ('grant.revoked', 'grant.needs_reauth', 'grant.quarantined'), occurred_at, NULL))
    ) AS until_at,
    COUNTIF(event_type IN ('grant.connected', 'grant.refreshed')) AS times
  FROM ${events} AS events
  WHERE
    event_type IN ('grant.connected', 'grant.refreshed', 'grant.needs_reauth', 'grant.revoked', 'grant.quarantined')
    AND outcome != 'refused'
    AND (events.grant.cause IS NULL OR events.grant.cause != 'replaced by a new consent')
  GROUP BY tenant, subject_key, connection, grant_id
),
handed AS (
  SELECT
    tenant,
    subject_key,
    link.agent_id AS agent_id,
    connection,
    events.grant.id AS grant_id,
    link.how AS how,
    MIN(occurred_at) AS from_at,
    MAX(COALESCE(events.token.expires_at, occurred_at)) AS until_at,
    COUNT(*) AS times
  FROM
    ${events} AS events,
    UNNEST(
      ARRAY_CONCAT(
        [STRUCT(
          IF(events.token.kind IN ('assertion', 'call'), 'assertion', 'token') AS how,
          IF(event_type = 'exchange.decided' AND actor.delegates_to IS NOT NULL, NULL, actor.agent_id) AS agent_id
        )],
        [STRUCT('delegated' AS how, IF(actor.delegates_to IS NOT NULL, actor.agent_id, NULL) AS agent_id)],
        [STRUCT('delegated' AS how, actor.delegates_to AS agent_id)],
        ARRAY(SELECT STRUCT('delegated' AS how, earlier AS agent_id) FROM UNNEST(actor.chain) AS earlier)
      )
    ) AS link
  WHERE event_type IN ('assertion.minted', 'exchange.decided') AND outcome IN ('issued', 'unconfirmed') AND link.agent_id IS NOT NULL
  GROUP BY tenant, subject_key, agent_id, connection, grant_id, how, TIMESTAMP_TRUNC(occurred_at, DAY)
)
SELECT * FROM grants
UNION ALL
SELECT * FROM handed

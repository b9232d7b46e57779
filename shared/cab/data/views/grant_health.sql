-- How the grants of each connection fare, by day: refreshes, users who have to connect again and why, in the provider's own
-- words too, and the requests that failed because the provider was away (`outages`, while no grant is lost). What a new consent replaced
-- is no grant that was revoked, but may live on at the provider: `not_revoked_upstream` counts it.
SELECT
  TIMESTAMP_TRUNC(occurred_at, DAY) AS day,
  tenant,
  connection,
  tool.provider AS provider,
  COUNT(DISTINCT events.grant.id) AS grants,
  COUNTIF(event_type = 'grant.connected') AS connected,
  COUNTIF(event_type = 'grant.connected' AND events.grant.cause LIKE '%refresh token%') AS not_lasting,
  COUNTIF(event_type = 'grant.refreshed') AS refreshed,
  COUNTIF(event_type = 'grant.refreshed' AND events.grant.cause = 'race_recovered') AS recovered,
  COUNTIF(event_type = 'grant.needs_reauth') AS needs_reauth,
  COUNTIF(event_type = 'grant.revoked' AND events.grant.cause IS DISTINCT FROM 'replaced by a new consent') AS revoked,
  COUNTIF(event_type = 'grant.revoked' AND events.grant.upstream_revoked = FALSE) AS not_revoked_upstream,
  COUNTIF(event_type = 'grant.quarantined') AS quarantined,
  COUNTIF(outcome = 'failed') AS failed,
  ARRAY_AGG(
    DISTINCT IF(
      event_type IN ('grant.needs_reauth', 'grant.quarantined'),
      CONCAT(events.grant.cause, COALESCE(CONCAT(': ', events.grant.provider_error), '')),
      NULL
    ) IGNORE NULLS
  ) AS causes,
  COUNTIF(event_type = 'exchange.decided') AS outages
FROM ${events} AS events
WHERE
  (
    event_type IN ('grant.connected', 'grant.refreshed', 'grant.needs_reauth', 'grant.revoked', 'grant.quarantined')
    AND outcome IS DISTINCT FROM 'refused'
  )
  OR (event_type = 'exchange.decided' AND outcome = 'refused' AND reason_code = 'provider_unavailable')
GROUP BY day, tenant, connection, provider

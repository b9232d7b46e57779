-- How the grants of each connection fare, by day: refreshes, and users who have to connect again.
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
  COUNTIF(event_type = 'grant.revoked') AS revoked,
  COUNTIF(event_type = 'grant.revoked' AND events.grant.upstream_revoked = FALSE) AS not_revoked_upstream,
  COUNTIF(event_type = 'grant.quarantined') AS quarantined,
  COUNTIF(outcome = 'failed') AS failed
FROM `${project}.${dataset}.events` AS events
WHERE STARTS_WITH(event_type, 'grant.') AND outcome IS DISTINCT FROM 'refused'
GROUP BY day, tenant, connection, provider

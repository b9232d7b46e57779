-- Every event as OCSF 1.3.0 has it (schema.ocsf.io), for a SIEM: Authentication (3002) for logins, Entity Management (3004)
-- for grants and keys, Application Lifecycle (6002) for processes that ended, API Activity (6003) for everything that
-- agents, people and platforms did. The broker's own word for how it ended is `unmapped.outcome`. Absent members are NULL; `cab audit export --format ocsf` leaves them out. `severity_id`
-- is High where a destructive act went beyond the ask, Medium for the rest that security looks at, else Informational.
WITH classed AS (
  SELECT
    *,
    CASE
      WHEN event_type = 'assertion.minted' THEN 3002
      WHEN STARTS_WITH(event_type, 'grant') OR event_type = 'key.rotated' THEN 3004
      WHEN event_type = 'chain.closed' THEN 6002
      ELSE 6003
    END AS class_uid,
    CASE
      WHEN event_type = 'assertion.minted' THEN 1
      WHEN event_type = 'grant.connected' THEN 1
      WHEN event_type IN ('grant.refreshed', 'grant.needs_reauth', 'grant.quarantined', 'grant.allowed', 'key.rotated') THEN 3
      WHEN event_type = 'grant.revoked' THEN 4
      WHEN event_type = 'chain.closed' THEN 4
      WHEN STARTS_WITH(event_type, 'grant') THEN 99
      WHEN tool.effect = 'read' THEN 2
      WHEN tool.effect = 'write' THEN 3
      WHEN tool.effect = 'destructive' THEN 4
      ELSE 99
    END AS activity_id
  FROM ${events}
)
SELECT
  occurred_at,
  received_at,
  tenant,
  event_id,
  class_uid,
  DIV(class_uid, 1000) AS category_uid,
  activity_id,
  IF(activity_id = 99, event_type, NULL) AS activity_name,
  class_uid * 100 + activity_id AS type_uid,
  UNIX_MILLIS(occurred_at) AS time,
  CASE
    WHEN reason_code = 'intent_outside_task' AND tool.effect = 'destructive' THEN 4
    WHEN reason_code IN ('intent_outside_task', 'location_mismatch', 'may_act_violated', 'client_assertion_replayed', 'secret_echoed')
      THEN 3
    WHEN event_type IN ('grant.quarantined', 'token.withheld') THEN 3
    ELSE 1
  END AS severity_id,
  status_id,
  CASE status_id WHEN 0 THEN 'Unknown' WHEN 1 THEN 'Success' WHEN 2 THEN 'Failure' ELSE outcome END AS status,
  reason_code AS status_code,
  COALESCE(why, decided_by) AS status_detail,
  event_type AS message,
  `count`,
  STRUCT(
    '1.3.0' AS version,
    STRUCT('Credential Access Broker' AS name, 'CAB' AS vendor_name, STRUCT(service.function AS name) AS feature) AS product,
    event_id AS uid,
    txn AS correlation_uid,
    tenant AS tenant_uid,
    event_type AS event_code,
    UNIX_MILLIS(received_at) AS logged_time
  ) AS metadata,
  IF(
    class_uid IN (3004, 6003),
    STRUCT(
      COALESCE(actor.agent_id, actor.client_id, service.function) AS app_uid,
      COALESCE(actor.agent_id, actor.client_id, service.function) AS app_name,
      IF(subject_key IS NULL, NULL, STRUCT(subject_key AS uid)) AS user
    ),
    NULL
  ) AS actor,
  IF(
    class_uid = 6003,
    STRUCT(
      COALESCE(action, event_type) AS operation,
      STRUCT(COALESCE(connection, 'broker') AS name) AS service,
      IF(events_call.request_digest IS NULL, NULL, STRUCT(events_call.id AS uid)) AS request
    ),
    NULL
  ) AS api,
  IF(
    class_uid = 6003 AND intent.identifier IS NOT NULL,
    [STRUCT(intent.identifier AS name, connection AS namespace)],
    CAST([] AS ARRAY<STRUCT<name STRING, namespace STRING>>)
  ) AS resources,
  IF(class_uid IN (3002, 6003), STRUCT(COALESCE(caller_ip_prefix, 'internal') AS name), NULL) AS src_endpoint,
  IF(class_uid = 3002, STRUCT(COALESCE(subject_key, 'unknown') AS uid), NULL) AS user,
  IF(class_uid = 3002, STRUCT(COALESCE(actor.client_id, service.function) AS name), NULL) AS service,
  IF(class_uid = 3002 AND login.session IS NOT NULL, STRUCT(login.session AS uid), NULL) AS session,
  IF(
    class_uid = 3004,
    STRUCT(COALESCE(events_grant.id, event_id) AS uid, IF(event_type = 'key.rotated', 'key', 'grant') AS type, connection AS name),
    NULL
  ) AS entity,
  STRUCT(outcome AS outcome, decided_by AS decided_by, policy.version AS policy_version) AS unmapped,
  IF(class_uid = 6002, STRUCT(service.function AS name, 'CAB' AS vendor_name), NULL) AS app
FROM (
  SELECT
    *,
    classed.call AS events_call,
    classed.grant AS events_grant,
    CASE
      WHEN outcome IN ('issued', 'executed') THEN 1
      WHEN outcome IS NULL THEN 0
      WHEN outcome IN ('unknown', 'unconfirmed', 'unused') THEN 99
      ELSE 2
    END AS status_id
  FROM classed
)

-- Everything that was refused, with the reason and the rule behind it. `refusals` is how many requests the row stands
-- for: floods of unauthenticated requests are counted, not listed.
SELECT
  occurred_at,
  tenant,
  subject_key,
  actor.agent_id AS agent_id,
  actor.client_id AS client_id,
  event_type,
  reason_code,
  why,
  unverified,
  decision,
  policy.determining_rules AS determining_rules,
  policy.version AS policy_version,
  connection,
  action,
  intent.identifier AS identifier,
  COALESCE(count, 1) AS refusals,
  caller_ip_prefix,
  txn,
  event_id
FROM `${project}.${dataset}.events`
WHERE outcome = 'refused'

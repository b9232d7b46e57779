-- Everything that was refused: what decided it, the reason, whose agent it was, and the rules where rules decided.
-- `refusals` is how many requests the row stands for: floods of unauthenticated requests are counted, not listed. A refusal
-- of refresh_grants to a function of the broker is that function's refusal to its own caller, and stands there once.
SELECT
  refused.occurred_at,
  refused.tenant,
  refused.subject_key,
  refused.actor.agent_id AS agent_id,
  refused.actor.client_id AS client_id,
  agents.owner AS owner,
  agents.team AS team,
  refused.event_type,
  refused.decided_by,
  refused.reason_code,
  refused.why,
  refused.unverified,
  refused.decision,
  IF(
    refused.decided_by = 'policy' OR refused.decided_by IS NULL, refused.policy.determining_rules, CAST([] AS ARRAY<STRING>)
  ) AS determining_rules,
  refused.policy.version AS policy_version,
  refused.connection,
  refused.action,
  refused.tool.effect AS effect,
  refused.intent.identifier AS identifier,
  COALESCE(refused.count, 1) AS refusals,
  refused.caller_ip_prefix,
  refused.txn,
  refused.event_id
FROM ${events} AS refused
LEFT JOIN `${project}.${dataset}.agents` AS agents
  ON agents.tenant = refused.tenant AND agents.agent_id = refused.actor.agent_id
WHERE
  refused.outcome = 'refused'
  AND NOT (refused.event_type = 'grant.served' AND refused.actor.client_id IS NOT NULL)

-- What came of each token of which somebody said it: one row for each hand-out and agent. The resource's word goes before the
-- agent's, since it says what it did itself. A token may be used more than once: of a resource's words `done` goes before
-- `unknown`, and that before `failed` and `rejected`. `disagree` is where agent and resource say different things of the same
-- token; `unknown` contradicts nobody. Calls that the broker makes are in `calls`. Documented in docs/audit.md.
WITH reports AS (
  SELECT
    tenant,
    txn,
    events.token.sha256 AS token_sha256,
    intent.intent_hash AS intent_hash,
    actor.agent_id AS agent_id,
    MAX(subject_key) AS subject_key,
    MAX(connection) AS connection,
    MAX(action) AS action,
    MAX(tool.effect) AS effect,
    MAX(intent.identifier) AS identifier,
    MIN(occurred_at) AS first_at,
    MAX(occurred_at) AS last_at,
    MAX(IF(observed_by = 'agent', events.call.outcome, NULL)) AS agent_said,
    CASE
      WHEN LOGICAL_OR(observed_by = 'resource' AND events.call.outcome = 'done') THEN 'done'
      WHEN LOGICAL_OR(observed_by = 'resource' AND events.call.outcome = 'unknown') THEN 'unknown'
      WHEN LOGICAL_OR(observed_by = 'resource' AND events.call.outcome = 'failed') THEN 'failed'
      WHEN LOGICAL_OR(observed_by = 'resource' AND events.call.outcome = 'rejected') THEN 'rejected'
    END AS resource_said,
    MAX(IF(observed_by = 'resource', actor.client_id, NULL)) AS resource_server
  FROM ${events} AS events
  WHERE
    event_type = 'tool.executed'
    AND observed_by IN ('agent', 'resource')
    AND outcome != 'refused'
    AND events.token.sha256 IS NOT NULL
  GROUP BY tenant, txn, token_sha256, intent_hash, agent_id
)
SELECT
  *,
  COALESCE(resource_said, agent_said) AS outcome,
  COALESCE(agent_said != resource_said AND 'unknown' NOT IN (agent_said, resource_said), FALSE) AS disagree
FROM reports

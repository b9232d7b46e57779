-- Tokens that were handed out and of which nobody said what came: no report with the hash of that token by the agent that
-- had it or by the resource it was for, and no outcome of that call where the broker makes it. A report speaks for one
-- hand-out: a token that was handed out twice, for two intents or transactions, is cleared twice.
-- `issued_without_outcome_between` also reads the reports of the two days after: a client reports until an hour after a token's
-- end. A tool server that does not report is listed for every token; one that does should be listed for none.
WITH reports AS (
  SELECT DISTINCT
    tenant,
    actor.agent_id AS agent_id,
    events.token.sha256 AS token_sha256,
    txn,
    COALESCE(intent.intent_hash, '') AS intent_hash
  FROM ${events_later} AS events
  WHERE event_type = 'tool.executed' AND outcome != 'refused' AND events.token.sha256 IS NOT NULL
),
outcomes AS (
  SELECT DISTINCT
    tenant,
    subject_key,
    actor.agent_id AS agent_id,
    events.call.id AS call_id
  FROM ${events_later} AS events
  WHERE
    event_type = 'tool.executed'
    AND observed_by = 'broker'
    AND outcome != 'refused'
    AND events.call.id IS NOT NULL
)
SELECT
  issued.occurred_at,
  issued.tenant,
  issued.subject_key,
  issued.actor.agent_id AS agent_id,
  issued.connection,
  issued.action,
  issued.intent.identifier AS identifier,
  issued.token.kind AS token_kind,
  issued.token.expires_at AS token_expires_at,
  issued.call.id AS call_id,
  issued.txn,
  issued.event_id
FROM ${events} AS issued
LEFT JOIN reports
  ON
    reports.tenant = issued.tenant
    AND reports.agent_id = issued.actor.agent_id
    AND reports.token_sha256 = issued.token.sha256
    AND reports.txn = issued.txn
    AND reports.intent_hash = COALESCE(issued.intent.intent_hash, '')
LEFT JOIN outcomes
  ON
    outcomes.tenant = issued.tenant
    AND outcomes.subject_key = issued.subject_key
    AND outcomes.agent_id = issued.actor.agent_id
    AND outcomes.call_id = issued.call.id
WHERE
  issued.event_type = 'exchange.decided'
  AND issued.outcome IN ('issued', 'unconfirmed')
  AND (issued.token.kind IS NULL OR issued.token.kind NOT IN ('assertion', 'call'))
  AND outcomes.call_id IS NULL
  AND (issued.call.id IS NOT NULL OR reports.token_sha256 IS NULL)

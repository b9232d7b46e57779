-- Tokens that were issued and whose use nobody reported (`tool.executed` with the same token or transaction and action).
-- A tool server that does not report is listed for every token; one that does should be listed for none.
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
  issued.txn,
  issued.event_id
FROM `${project}.${dataset}.events` AS issued
LEFT JOIN `${project}.${dataset}.events` AS used
  ON
    used.event_type = 'tool.executed'
    AND used.occurred_at >= issued.occurred_at
    AND used.txn = issued.txn
    AND used.action = issued.action
WHERE
  issued.event_type = 'exchange.decided'
  AND issued.outcome = 'issued'
  AND used.event_id IS NULL

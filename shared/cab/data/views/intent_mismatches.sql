-- Agents that asked for more than the user did: the watch for prompt injection. Only what went beyond the ask: a request
-- within it that was refused for another reason (an outage, a limit, a lost grant) is not here, nor is a read where there
-- was no task to exceed. `stated_reason` is text of the agent and may be hostile: read it, never follow it.
SELECT
  occurred_at,
  tenant,
  subject_key,
  actor.agent_id AS agent_id,
  reason_code,
  connection,
  action,
  tool.effect AS effect,
  intent.identifier AS identifier,
  intent.trigger AS intent_trigger,
  intent.task_id AS task_id,
  intent.reason AS stated_reason,
  task.comparison AS comparison,
  txn,
  event_id
FROM ${events}
WHERE
  event_type = 'exchange.decided'
  AND outcome = 'refused'
  AND (
    reason_code IN ('intent_outside_task', 'task_exhausted', 'location_mismatch')
    OR (
      reason_code IN ('confirmation_required', 'confirmation_refused')
      AND task.comparison IN ('action_outside', 'identifier_outside')
    )
  )

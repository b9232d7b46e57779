-- Agents that asked for more than the user did: the watch for prompt injection. `stated_reason` is text of the agent
-- and may be hostile: read it, never follow it.
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
FROM `${project}.${dataset}.events`
WHERE
  outcome = 'refused'
  AND (
    reason_code IN ('intent_outside_task', 'task_exhausted', 'location_mismatch', 'action_not_allowed_for_agent')
    OR task.within = FALSE
  )

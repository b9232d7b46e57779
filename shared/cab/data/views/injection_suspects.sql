-- Transactions in which an agent went beyond the ask, or its user said no, the likeliest attack first: one row per
-- transaction and day. `score` adds up what sets an injection apart from a clumsy agent: destructive attempts (5 each, at
-- most 3), writes (2 each, at most 5), different objects (1 each, at most 5), three or more attempts within a minute (3), and
-- the user's own no (4). `read_before` is what the agent had read last before it began: the likely carrier. Filter on `day`.
WITH seen AS (
  SELECT
    TIMESTAMP_TRUNC(occurred_at, DAY) AS day,
    tenant,
    txn,
    occurred_at,
    subject_key,
    actor.agent_id AS agent_id,
    connection,
    action,
    tool.effect AS effect,
    intent.identifier AS identifier,
    intent.trigger AS intent_trigger,
    event_type,
    outcome,
    event_type = 'exchange.decided'
    AND outcome = 'refused'
    AND (
      reason_code IN ('intent_outside_task', 'task_exhausted', 'location_mismatch')
      OR (
        reason_code IN ('confirmation_required', 'confirmation_refused')
        AND task.comparison IN ('action_outside', 'identifier_outside')
      )
    ) AS is_beyond,
    event_type = 'confirmation.decided' AND decision = 'deny' AS is_no
  FROM ${events}
  WHERE event_type IN ('exchange.decided', 'confirmation.decided')
),
begun AS (
  SELECT *, MIN(IF(is_beyond, occurred_at, NULL)) OVER (PARTITION BY day, tenant, txn) AS begins_at
  FROM seen
),
dated AS (
  SELECT *, COALESCE(outcome IN ('issued', 'unconfirmed') AND effect = 'read' AND occurred_at < begins_at, FALSE) AS is_read_before
  FROM begun
),
summed AS (
  SELECT
    day,
    tenant,
    txn,
    MAX(subject_key) AS subject_key,
    ARRAY_AGG(DISTINCT IF(is_beyond, agent_id, NULL) IGNORE NULLS) AS agents,
    MAX(intent_trigger) AS intent_trigger,
    MIN(begins_at) AS occurred_at,
    COUNTIF(is_beyond) AS attempts,
    COUNTIF(is_beyond AND effect = 'destructive') AS destructive,
    COUNTIF(is_beyond AND effect = 'write') AS writes,
    COUNT(DISTINCT IF(is_beyond, CONCAT(connection, ' ', identifier), NULL)) AS objects,
    TIMESTAMP_DIFF(MAX(IF(is_beyond, occurred_at, NULL)), MIN(begins_at), SECOND) AS seconds,
    COUNTIF(is_no) AS users_no,
    COUNTIF(outcome IN ('issued', 'unconfirmed') AND effect IN ('write', 'destructive') AND occurred_at >= begins_at) AS issued_after,
    ARRAY_AGG(
      STRUCT(IF(is_read_before, CONCAT(action, ' ', COALESCE(identifier, '')), NULL) AS what)
      ORDER BY IF(is_read_before, 0, 1), occurred_at DESC LIMIT 1
    )[SAFE_OFFSET(0)].what AS read_before
  FROM dated
  GROUP BY day, tenant, txn
)
SELECT
  *,
  5 * LEAST(destructive, 3) + 2 * LEAST(writes, 5) + LEAST(objects, 5) + IF(attempts >= 3 AND seconds <= 60, 3, 0)
  + IF(users_no > 0, 4, 0) AS score
FROM summed
WHERE attempts > 0 OR users_no > 0

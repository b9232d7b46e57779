-- Each time a user was asked: when, what for, the answer and how long it took, and whether it was then used. Of a question from before
-- the days that are read `asked_at` is NULL.
WITH confirmations AS (
  SELECT
    tenant,
    confirmation_id,
    MAX(subject_key) AS subject_key,
    MAX(actor.agent_id) AS agent_id,
    MAX(connection) AS connection,
    MAX(action) AS action,
    MAX(intent.identifier) AS identifier,
    MIN(occurred_at) AS first_at,
    MIN(
      IF(
        event_type = 'confirmation.requested'
        OR (event_type = 'exchange.decided' AND reason_code IN ('confirmation_required', 'authorization_pending')),
        occurred_at,
        NULL
      )
    ) AS asked_at,
    MIN(IF(event_type = 'confirmation.decided', occurred_at, NULL)) AS decided_at,
    MAX(IF(event_type = 'confirmation.decided', decision, NULL)) AS answer,
    MIN(IF(event_type = 'exchange.decided' AND outcome IN ('issued', 'unconfirmed'), occurred_at, NULL)) AS used_at
  FROM ${events_later}
  WHERE
    confirmation_id IS NOT NULL
  GROUP BY tenant, confirmation_id
)
SELECT
  * EXCEPT (first_at),
  CASE answer WHEN 'permit' THEN 'approved' WHEN 'deny' THEN 'refused' ELSE 'unanswered' END AS status,
  TIMESTAMP_DIFF(decided_at, asked_at, SECOND) AS seconds_to_answer
FROM confirmations
WHERE first_at < ${until}

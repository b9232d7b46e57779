-- What came of each call that the broker made: its attempts of one day (the event before any token moved), joined with
-- the outcome. `outcome` is `unknown` where none came within 120 seconds, and `pending` until then; `cause` tells an
-- outcome that nobody wrote (`no_outcome`) from a call that was under way when its process ended (`interrupted`). The
-- platform was asked at most as often as there are attempts. An id is of one user and agent: another's is another call.
-- `calls_between` reads the attempts of the days asked, and outcomes of two days more.
WITH attempts AS (
  SELECT
    TIMESTAMP_TRUNC(occurred_at, DAY) AS day,
    tenant,
    subject_key,
    actor.agent_id AS agent_id,
    events.call.id AS call_id,
    MIN(occurred_at) AS occurred_at,
    MAX(IF(outcome IN ('issued', 'unconfirmed'), occurred_at, NULL)) AS last_issued_at,
    COUNT(*) AS attempts,
    MAX(connection) AS connection,
    MAX(action) AS action,
    MAX(tool.effect) AS effect,
    MAX(intent.identifier) AS identifier,
    MAX(events.call.method) AS method,
    MAX(events.call.host) AS host,
    MAX(events.call.path_template) AS path_template,
    MAX(events.call.request_digest) AS request_digest,
    MAX(confirmation_id) AS confirmation_id,
    MAX(txn) AS txn,
    MIN(event_id) AS attempt_event_id
  FROM ${events} AS events
  WHERE event_type = 'exchange.decided' AND outcome IN ('issued', 'unconfirmed', 'withheld') AND events.call.id IS NOT NULL
  GROUP BY day, tenant, subject_key, agent_id, call_id
),
outcomes AS (
  SELECT
    tenant,
    subject_key,
    actor.agent_id AS agent_id,
    events.call.id AS call_id,
    MAX(occurred_at) AS outcome_at,
    ARRAY_AGG(
      STRUCT(
        events.call AS facts,
        reason_code AS reason_code,
        latency_ms.upstream AS upstream_ms,
        event_id AS event_id
      )
      ORDER BY occurred_at DESC, event_id DESC LIMIT 1
    )[OFFSET(0)] AS last
  FROM ${events_later} AS events
  WHERE
    event_type = 'tool.executed'
    AND observed_by = 'broker'
    AND outcome != 'refused'
    AND events.call.id IS NOT NULL
    AND events.call.outcome IS NOT NULL
  GROUP BY tenant, subject_key, agent_id, call_id
)
SELECT
  attempts.day,
  attempts.occurred_at,
  attempts.tenant,
  attempts.subject_key,
  attempts.agent_id,
  attempts.call_id,
  attempts.connection,
  attempts.action,
  attempts.effect,
  attempts.identifier,
  attempts.method,
  attempts.host,
  attempts.path_template,
  attempts.attempts,
  CASE
    WHEN outcomes.outcome_at IS NOT NULL THEN outcomes.last.facts.outcome
    WHEN attempts.last_issued_at IS NULL THEN 'not_sent'
    WHEN attempts.last_issued_at > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 120 SECOND) THEN 'pending'
    ELSE 'unknown'
  END AS outcome,
  CASE
    WHEN outcomes.outcome_at IS NOT NULL THEN outcomes.last.facts.cause
    WHEN attempts.last_issued_at IS NULL THEN 'withheld'
    WHEN attempts.last_issued_at <= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 120 SECOND) THEN 'no_outcome'
  END AS cause,
  outcomes.last.reason_code AS reason_code,
  outcomes.outcome_at,
  outcomes.last.facts.attempts AS sent,
  outcomes.last.facts.upstream_status AS upstream_status,
  outcomes.last.facts.upstream_request_id AS upstream_request_id,
  outcomes.last.facts.response_bytes AS response_bytes,
  outcomes.last.facts.items AS items,
  outcomes.last.upstream_ms AS upstream_ms,
  attempts.request_digest,
  outcomes.last.facts.request_digest = attempts.request_digest AS sent_as_decided,
  outcomes.last.facts.response_commitment AS response_commitment,
  attempts.confirmation_id,
  attempts.txn,
  attempts.attempt_event_id,
  outcomes.last.event_id AS outcome_event_id
FROM attempts
LEFT JOIN outcomes
  ON
    outcomes.tenant = attempts.tenant
    AND outcomes.subject_key = attempts.subject_key
    AND outcomes.agent_id = attempts.agent_id
    AND outcomes.call_id = attempts.call_id
    AND outcomes.outcome_at >= attempts.occurred_at

-- Events whose beginning is not on record: what led to them was removed, never arrived, or never happened.
-- `without_mint`: an exchange under an assertion of this broker, and nothing that issued that assertion. `without_question`:
-- an answer of a person, and no exchange that asked. `without_answer`: something issued for which a person had to say yes,
-- and no yes. `without_attempt`: an outcome of a call, and no attempt. `without_token`: a report on a token that nobody
-- was handed. One scan of narrow columns. What led to an event may be of the day before: the first two days of what is
-- read, of the retention or between two instants, are not judged.
WITH links AS (
  SELECT
    occurred_at,
    received_at,
    tenant,
    subject_key,
    actor.agent_id AS agent_id,
    connection,
    action,
    event_type,
    outcome,
    txn,
    event_id,
    link.orphan,
    link.named,
    LOGICAL_OR(link.begins) OVER (PARTITION BY link.orphan, tenant, link.named) AS has_beginning,
    link.begins
  FROM
    ${events} AS events,
    UNNEST([
      STRUCT(
        'without_mint' AS orphan,
        IF(
          outcome IN ('issued', 'unconfirmed', 'withheld') AND events.token.kind IN ('assertion', 'call'), events.token.jti, NULL
        ) AS named,
        TRUE AS begins
      ),
      STRUCT(
        'without_mint' AS orphan, IF(event_type = 'exchange.decided', assertion_jti, NULL) AS named, FALSE AS begins
      ),
      STRUCT(
        'without_question' AS orphan,
        IF(event_type IN ('exchange.decided', 'confirmation.requested'), confirmation_id, NULL) AS named,
        TRUE AS begins
      ),
      STRUCT(
        'without_question' AS orphan,
        IF(event_type = 'confirmation.decided', confirmation_id, NULL) AS named,
        FALSE AS begins
      ),
      STRUCT(
        'without_answer' AS orphan,
        IF(event_type = 'confirmation.decided' AND decision = 'permit', confirmation_id, NULL) AS named,
        TRUE AS begins
      ),
      STRUCT(
        'without_answer' AS orphan,
        IF(event_type = 'exchange.decided' AND outcome IN ('issued', 'unconfirmed'), confirmation_id, NULL) AS named,
        FALSE AS begins
      ),
      STRUCT(
        'without_attempt' AS orphan,
        IF(
          event_type = 'exchange.decided' AND outcome IN ('issued', 'unconfirmed', 'withheld'),
          CONCAT(subject_key, ' ', actor.agent_id, ' ', events.call.id),
          NULL
        ) AS named,
        TRUE AS begins
      ),
      STRUCT(
        'without_attempt' AS orphan,
        IF(
          event_type = 'tool.executed' AND observed_by = 'broker' AND outcome != 'refused',
          CONCAT(subject_key, ' ', actor.agent_id, ' ', events.call.id),
          NULL
        ) AS named,
        FALSE AS begins
      ),
      STRUCT(
        'without_token' AS orphan,
        IF(
          event_type = 'exchange.decided' AND outcome IN ('issued', 'unconfirmed', 'withheld'),
          CONCAT(actor.agent_id, ' ', events.token.sha256),
          NULL
        ) AS named,
        TRUE AS begins
      ),
      STRUCT(
        'without_token' AS orphan,
        IF(
          event_type = 'tool.executed' AND observed_by IN ('agent', 'resource') AND outcome != 'refused',
          CONCAT(actor.agent_id, ' ', events.token.sha256),
          NULL
        ) AS named,
        FALSE AS begins
      )
    ]) AS link
  WHERE link.named IS NOT NULL
)
SELECT
  occurred_at,
  tenant,
  orphan,
  event_type,
  subject_key,
  agent_id,
  connection,
  action,
  outcome,
  named,
  txn,
  event_id
FROM links
WHERE
  NOT begins
  AND NOT has_beginning
  AND occurred_at >= TIMESTAMP_ADD(${since}, INTERVAL 2 DAY)
  -- What led to it may still be on its way: pushes are not in order.
  AND received_at < TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 10 MINUTE)

-- One flat row of numbers for each transaction, to learn from or to cluster: what was asked, how it ended, how fast, of how
-- many kinds. No text that an agent, a person or a platform wrote, no identifier of an object and no key of a user: `txn` leads
-- back to them for those who may read `events`. The words that are left are of closed lists. Documented in docs/audit.md.
WITH facts AS (
  SELECT
    *,
    event_type = 'exchange.decided' AND events.token.kind IS DISTINCT FROM 'call' AS is_request,
    event_type = 'exchange.decided'
    AND outcome = 'refused'
    AND (
      reason_code IN ('intent_outside_task', 'task_exhausted', 'location_mismatch')
      OR (
        reason_code IN ('confirmation_required', 'confirmation_refused')
        AND task.comparison IN ('action_outside', 'identifier_outside')
      )
    ) AS is_beyond,
    IF(
      event_type = 'exchange.decided',
      TIMESTAMP_DIFF(
        occurred_at,
        LAG(occurred_at) OVER (PARTITION BY tenant, txn, event_type ORDER BY occurred_at, event_id),
        MILLISECOND
      ),
      NULL
    ) AS pause_ms,
    -- Of agent and resource that both speak of a token, the resource; of its words, that something was done.
    ROW_NUMBER() OVER (
      PARTITION BY tenant, txn, event_type, actor.agent_id, events.token.sha256, intent.intent_hash
      ORDER BY
        IF(observed_by = 'resource', 0, 1), IF(outcome = 'executed', 0, IF(outcome = 'unknown', 1, 2)), occurred_at, event_id
    ) = 1
    OR events.token.sha256 IS NULL AS is_word
  FROM ${events} AS events
  -- A refusal of refresh_grants to a function of the broker is that function's refusal, and no transaction of nobody.
  WHERE txn IS NOT NULL AND NOT (event_type = 'grant.served' AND actor.client_id IS NOT NULL)
)
SELECT
  tenant,
  txn,
  MIN(occurred_at) AS began_at,
  EXTRACT(HOUR FROM MIN(occurred_at)) AS hour_utc,
  EXTRACT(DAYOFWEEK FROM MIN(occurred_at)) AS weekday,
  TIMESTAMP_DIFF(MAX(occurred_at), MIN(occurred_at), MILLISECOND) / 1000 AS seconds,
  LOGICAL_OR(event_type = 'assertion.minted') AS has_login,
  MAX(intent.trigger = 'user_turn') AS asked_by_user,
  LOGICAL_OR(task.comparison IS NOT NULL AND task.comparison != 'no_task') AS has_task,
  COUNT(*) AS events,
  COUNT(DISTINCT actor.agent_id) AS agents,
  COALESCE(MAX(actor.depth), 0) AS depth,
  COUNT(DISTINCT caller_ip_prefix) AS networks,
  COUNTIF(is_request) AS requests,
  COUNTIF(is_request AND tool.effect = 'read') AS reads,
  COUNTIF(is_request AND tool.effect = 'write') AS writes,
  COUNTIF(is_request AND tool.effect = 'destructive') AS destructives,
  COUNT(DISTINCT IF(is_request, connection, NULL)) AS connections,
  COUNT(DISTINCT IF(is_request, action, NULL)) AS actions,
  COUNT(DISTINCT IF(is_request, CONCAT(connection, ' ', intent.identifier), NULL)) AS objects,
  COUNTIF(is_request AND outcome = 'issued') AS issued,
  COUNTIF(is_request AND outcome IN ('withheld', 'unconfirmed')) AS withheld,
  COUNTIF(is_request AND outcome = 'refused') AS refused,
  COUNTIF(outcome = 'refused' AND decided_by = 'task') AS refused_by_task,
  COUNTIF(outcome = 'refused' AND decided_by = 'allow_list') AS refused_by_allow_list,
  COUNTIF(outcome = 'refused' AND decided_by = 'policy') AS refused_by_policy,
  COUNTIF(outcome = 'refused' AND decided_by = 'limit') AS refused_by_limit,
  COUNTIF(outcome = 'refused' AND decided_by = 'grant') AS refused_by_grant,
  COUNTIF(outcome = 'refused' AND decided_by = 'credential') AS refused_by_credential,
  COUNTIF(outcome = 'refused' AND decided_by = 'outage') AS refused_by_outage,
  COUNTIF(is_beyond) AS beyond,
  COUNTIF(is_beyond AND tool.effect = 'destructive') AS beyond_destructive,
  COUNT(DISTINCT IF(is_beyond, CONCAT(connection, ' ', intent.identifier), NULL)) AS beyond_objects,
  COUNT(DISTINCT IF(reason_code = 'confirmation_required', confirmation_id, NULL)) AS questions,
  COUNTIF(event_type = 'confirmation.decided' AND decision = 'permit') AS yes,
  COUNTIF(event_type = 'confirmation.decided' AND decision = 'deny') AS no,
  COUNTIF(is_request AND events.call.id IS NOT NULL AND outcome = 'issued') AS calls,
  COUNTIF(event_type = 'tool.executed' AND is_word AND outcome = 'executed') AS done,
  COUNTIF(event_type = 'tool.executed' AND is_word AND outcome = 'failed') AS failed,
  COUNTIF(event_type = 'tool.executed' AND is_word AND outcome = 'unknown') AS unknown,
  COUNTIF(policy.shadow_differs) AS candidates_differ,
  MIN(IF(is_request, pause_ms, NULL)) AS shortest_pause_ms,
  AVG(IF(is_request, pause_ms, NULL)) AS mean_pause_ms,
  MAX(latency_ms.total) AS slowest_ms
FROM facts AS events
GROUP BY tenant, txn

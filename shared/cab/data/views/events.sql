-- Every audit event once. At-least-once delivery writes some rows twice; duplicates are the same bytes, so the first
-- one received stands for all. The table refuses queries that name no time, so the view names the retention; a filter
-- on occurred_at in your own query narrows what is read further, because it is part of the window's partition.
-- A token whose event was not acknowledged in time never left, though that event says `issued` and may have come all
-- the same: `token.withheld` takes it back, at the same instant, so that no other day has to be read.
SELECT
  * REPLACE (
    IF(
      outcome = 'issued'
      AND LOGICAL_OR(event_type = 'token.withheld') OVER (PARTITION BY COALESCE(corrects, event_id), occurred_at),
      'withheld',
      outcome
    ) AS outcome
  )
FROM `${project}.${dataset}.events_raw`
WHERE occurred_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL ${retention_days} DAY)
QUALIFY ROW_NUMBER() OVER (PARTITION BY event_id, occurred_at ORDER BY received_at, message_id) = 1

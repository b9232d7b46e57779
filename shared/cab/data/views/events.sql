-- Every audit event once. At-least-once delivery writes some rows twice; duplicates are the same bytes, so the first
-- one received stands for all. The table refuses queries that name no time, so the view names the retention; a filter
-- on occurred_at in your own query narrows what is read further, because it is part of the window's partition.
SELECT *
FROM `${project}.${dataset}.events_raw`
WHERE occurred_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL ${retention_days} DAY)
QUALIFY ROW_NUMBER() OVER (PARTITION BY event_id, occurred_at ORDER BY received_at, message_id) = 1

-- How long an event takes from its decision to its row, by hour.
SELECT
  TIMESTAMP_TRUNC(occurred_at, HOUR) AS hour,
  COUNT(*) AS events,
  APPROX_QUANTILES(TIMESTAMP_DIFF(received_at, occurred_at, MILLISECOND), 100)[OFFSET(50)] AS median_ms,
  APPROX_QUANTILES(TIMESTAMP_DIFF(received_at, occurred_at, MILLISECOND), 100)[OFFSET(99)] AS p99_ms,
  MAX(TIMESTAMP_DIFF(received_at, occurred_at, MILLISECOND)) AS max_ms,
  MAX(received_at) AS last_row_at
FROM ${events}
GROUP BY hour

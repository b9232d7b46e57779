-- Each configuration that was ever exported: since when, from which commit, with which policies.
SELECT
  policy_version,
  MIN(exported_at) AS first_seen_at,
  MAX(exported_at) AS last_seen_at,
  ARRAY_AGG(
    STRUCT(configuration.commit AS named) ORDER BY IF(configuration.commit IS NULL, 1, 0), exported_at LIMIT 1
  )[SAFE_OFFSET(0)].named AS first_commit,
  COUNT(*) AS exports
FROM `${project}.${dataset}.configuration` AS configuration
GROUP BY policy_version

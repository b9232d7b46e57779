-- The connections of the deployment that was exported last.
SELECT
  configuration.exported_at,
  configuration.policy_version,
  item.*
FROM `${project}.${dataset}.configuration` AS configuration, UNNEST(configuration.connections) AS item
WHERE configuration.exported_at = (SELECT MAX(exported_at) FROM `${project}.${dataset}.configuration`)

"""Audit ingest: Pub/Sub push in, BigQuery row out, private Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import bootstrap, settings

ingest_audit = functions_framework.aio.http(bootstrap.ingest_audit(settings.load(settings.IngestAuditSettings)))

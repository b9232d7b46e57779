"""Audit ingest: Pub/Sub push in, BigQuery row out, private Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import settings
from cab.bootstrap import ingest_audit as build

ingest_audit = functions_framework.aio.http(build.ingest_audit(settings.load(settings.IngestAuditSettings)))

"""Builds ingest_audit: Pub/Sub push in, BigQuery row out."""

from __future__ import annotations

from cab.bootstrap.shared import Basics, Handler
from cab.settings import (
    IngestAuditSettings,
)
from cab.transport.pushes.audit import AuditPush
from cab.use_cases.audit.ingest import IngestAuditEvent
from cab.use_cases.identity.authenticate_service import ServiceAuthenticator


def ingest_audit(settings: IngestAuditSettings) -> Handler:
    from cab.adapters.google_cloud.bigquery.audit_rows import BigQueryAuditRows
    from cab.adapters.google_cloud.bigquery.audit_schema import row_of
    from cab.adapters.google_cloud.pubsub.quarantine import PubSubQuarantine
    from cab.adapters.rows_file import RowsFile

    parts = Basics(settings, "ingest_audit")
    quarantine = PubSubQuarantine(settings.project, settings.quarantine_topic)
    parts.closers.append(quarantine.close)
    if settings.rows_file is not None:
        rows: RowsFile | BigQueryAuditRows = RowsFile(settings.rows_file)
    else:
        rows = BigQueryAuditRows(settings.project, settings.dataset, settings.table)
        parts.closers.append(rows.close)
    push = AuditPush(
        IngestAuditEvent(rows, quarantine, parts.clock, row_of),
        services=ServiceAuthenticator(
            issuer=settings.google_issuer, audience=settings.own_url, keys=parts.google_keys(), clock=parts.clock
        ),
        push_account=settings.push_account,
        subscription=settings.subscription,
        randomness=parts.randomness,
    )
    return parts.handler(push.handle)

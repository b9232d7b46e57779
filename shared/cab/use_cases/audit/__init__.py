"""The record: `parties` says who acts and for whom, `auditor` ends every request in one event before its answer, `outbox` carries
events with state changes, `unsent` keeps what could not be published, `ingest` takes events in at the other side.
"""

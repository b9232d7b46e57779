"""The record: `parties` says who acts and for whom, `auditor` ends every request in one event before its answer, `outbox` carries
events with state changes, `ingest` takes them in at the other side.
"""

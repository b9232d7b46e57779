"""The record: `parties` says who acts and for whom, `auditor` ends every request in one event before its answer, `lines` says in the
log what somebody should look at, `waits` adds up what a request waited for, `outbox` carries events with state changes, `unsent`
keeps what could not be published, `packing` puts several into one message, `ingest` takes events in at the other side.
"""

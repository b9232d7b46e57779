"""Notations that no protocol owns: strict JSON, canonical JSON (RFC 8785), JSON Schema, sealing, W3C Trace Context."""

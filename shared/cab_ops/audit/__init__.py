"""Questions to the audit table, their report, and the proof that nothing in it was changed."""

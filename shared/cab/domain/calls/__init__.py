"""Calls that the broker makes itself, as pure functions: what is sent for an intent (`rendering`)."""

"""Calls that the broker makes itself, as pure functions: what clients see of them (`tools`), what is sent for an intent
(`rendering`).
"""

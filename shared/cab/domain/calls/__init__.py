"""Calls that the broker makes itself, as pure functions: what clients see of them (`tools`), what is sent for an intent
(`rendering`), what a reviewed tool of an MCP server was like (`pins`).
"""

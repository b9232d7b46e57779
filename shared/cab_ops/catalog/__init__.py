"""Catalog entries to review: from a system's OpenAPI document (`documents` reads it, `schemas` and `openapi` map it), from the
tools of an MCP server (`discovery` finds it, `mcp` pins them), or from the ready ones that come with CAB (`ready`). `entries`
writes them down. Nothing of this is deployed or read at run time.
"""

"""HTTP of call mode: `deciding` is what exchange_token answers to call_tool, and the outcomes that agents report; `tools` and `mcp`
are what call_tool answers to agents, `answers` what both of them say.
"""

"""HTTP of call mode: `deciding` is what exchange_token answers to call_tool, and the outcomes that agents report."""

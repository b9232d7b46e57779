"""The broker as a client of MCP servers, by the official SDK on its own guarded transport."""

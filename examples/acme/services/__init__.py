"""Acme's own systems: identity provider, CRM, project tracker, data warehouse. Each runs as a process of its own."""

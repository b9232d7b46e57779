"""The demo organisation Acme."""

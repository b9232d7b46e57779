"""CAB, the Credential Access Broker. Start reading at docs/architecture.md; the public contract is docs/api.md."""

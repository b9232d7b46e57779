"""Repositories: what the broker remembers, each written once over the `Documents` port.

Which database a repository is given decides who may write it (docs/architecture.md): `guards` (single use, limits, requests
for approval, deferrals), `approvals` (decisions and sessions of people), `grants`, `keys`.
"""

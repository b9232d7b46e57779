"""Acme whose CRM and tracker narrow a token by exchange, the CRM by RFC 8693, the tracker on behalf of."""

from __future__ import annotations

import re


def narrowing_by_exchange(text: str) -> str:
    """The demo's connections.yaml with the CRM's and the tracker's tokens made by exchange."""
    crm, tracker, rest = re.split(r"(?<=narrowing: )scope_at_refresh", text)
    by_exchange = "token_exchange\n    narrowing_request: {resource: true}"
    on_behalf_of = "    resource: ${ACME_TRACKER_ORIGIN}\n"
    assert rest.count(on_behalf_of) == 1
    rest = rest.replace(on_behalf_of, on_behalf_of + "    connect_scopes: [api://cab/access]\n")
    return f"{crm}{by_exchange}{tracker}on_behalf_of{rest}"

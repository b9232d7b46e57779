"""Builds connect_account: the pages people see."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from cab.bootstrap.shared import Handler, Parts
from cab.settings import (
    ConnectAccountSettings,
)
from cab.stores.approvals import ApprovalDecisions, ApprovalRequests
from cab.stores.grants import Grants
from cab.stores.issued_tokens import IssuedTokens
from cab.stores.people.departures import Departures
from cab.stores.sessions import BrowserStates
from cab.transport.pages import pages_app
from cab.transport.pushes.signals import PATH as EVENTS_PATH
from cab.transport.pushes.signals import SignalEndpoint
from cab.use_cases.people.signals import ReceiveSignals


def connect_account(settings: ConnectAccountSettings) -> Handler:
    from cab.adapters.cedar.checks import never_permitted

    parts = Parts(settings, "connect_account")
    guards = parts.documents("guards")
    # Sessions beside the decisions, in the database that this function alone writes: whoever could write a session
    # could approve in its name.
    approvals = parts.documents("approvals")
    grants, keys = Grants(parts.documents("grants")), parts.keys(clients={}, users=True)
    grant_tokens = parts.refresh_grants(settings.refresh_grants_url)
    pages = pages_app(
        replace(parts.deployment, never_permitted=never_permitted(parts.deployment)),
        states=BrowserStates(approvals),
        grants=grants,
        payloads=parts.grant_payloads,
        provider_calls=parts.provider_calls(),
        idp_http=parts.http(
            {url for idp in parts.deployment.identity_providers for url in (idp.issuer, *idp.endpoint_origins)},
            what="identity_provider",
            keep_alive=False,
        ),
        keys=keys,
        client_secrets=parts.secrets,
        approval_requests=ApprovalRequests(guards),
        approval_decisions=ApprovalDecisions(approvals),
        issued_tokens=IssuedTokens(guards),
        grant_tokens=grant_tokens,
        still_here=parts.still_here,
        audit_log=parts.audit_log,
        auditor=parts.auditor,
        clock=parts.clock,
        randomness=parts.randomness,
    )
    signals = SignalEndpoint(
        ReceiveSignals(
            parts.deployment,
            keys=keys,
            departures=Departures(approvals),
            grants=grants,
            grant_tokens=grant_tokens,
            clock=parts.clock,
        ),
        parts.auditor,
        parts.randomness,
    )

    async def handle(request: Request) -> Response:
        return await (signals.handle(request) if request.url.path == EVENTS_PATH else pages(request))

    return parts.handler(handle)

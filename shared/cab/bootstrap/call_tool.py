"""Builds call_tool: a platform's answer for an agent that holds no token of it.

It reads public keys, publishes audit events, asks exchange_token, and reaches the APIs that the configuration names. Nothing else:
no secret, no signing key, no write to any database.
"""

from __future__ import annotations

from cab.adapters.keys.own_keys import OwnKeys
from cab.bootstrap.shared import Handler, Parts
from cab.settings import CallToolSettings
from cab.stores.signing_keys import Issuer, SigningKeys
from cab.transport.calls.mcp import McpEndpoint
from cab.transport.calls.tools import ToolEndpoints
from cab.use_cases.calls.call import CallTool
from cab.use_cases.calls.execute import Execute
from cab.use_cases.calls.identify import IdentifyToolCaller
from cab.use_cases.calls.listing import Listing
from cab.use_cases.calls.running import MOST_CALLS, RunningCalls
from cab.use_cases.identity.verify_call_token import CallTokenVerifier

LARGE_ANSWERS_AT_ONCE = 16  # of at most 1 MiB; the rest wait with 64 KiB of theirs read


def call_tool(settings: CallToolSettings) -> Handler:
    from cab.adapters.exchange_token_client import ExchangeTokenClient
    from cab.adapters.google_cloud.service_tokens import GoogleServiceTokens
    from cab.adapters.mcp.tools import McpTools

    # It holds tokens of calls and so may write nowhere, not even what it could not publish. What it decides on are attempts
    # that exchange_token has recorded; one without an outcome reads as unknown.
    parts = Parts(settings, "call_tool", keeps_unsent=False)
    deployment, clock, randomness = parts.deployment, parts.clock, parts.randomness
    public_keys = OwnKeys(Issuer.STS, SigningKeys(parts.documents("keys")), None, clock)
    identify = IdentifyToolCaller(deployment, CallTokenVerifier(deployment.broker, public_keys, clock), clock)
    listing = Listing(deployment)
    running = RunningCalls()
    parts.stoppers.append(running.stop)
    url = settings.exchange_token_url
    deciding = parts.own_function(url, what="decisions", connections=MOST_CALLS)
    decisions = ExchangeTokenClient(url, deciding, GoogleServiceTokens(clock), clock)
    bases = {connection.called_at for connection in deployment.connections}
    reads, writes = (
        parts.platforms(bases, keep_alive=kept, connections=MOST_CALLS, large_at_once=LARGE_ANSWERS_AT_ONCE)
        for kept in (True, False)
    )
    tool = CallTool(
        deployment,
        listing=listing,
        decisions=decisions,
        execute=Execute(reads, writes),
        mcp=McpTools(reads, writes, clock),
        running=running,
        log=parts.audit_log,
        clock=clock,
        randomness=randomness,
    )
    mcp = McpEndpoint(
        deployment,
        identify=identify,
        listing=listing,
        call_tool=tool,
        running=running,
        auditor=parts.auditor,
        randomness=randomness,
    )
    parts.closers.insert(0, mcp.close)
    endpoints = ToolEndpoints(
        deployment,
        identify=identify,
        listing=listing,
        call_tool=tool,
        mcp=mcp.handle,
        auditor=parts.auditor,
        randomness=randomness,
    )
    # Most of them wait for platforms. As many again leave those room who ask for less than a call, or are told to come back.
    return parts.handler(endpoints.handle, most=2 * MOST_CALLS)

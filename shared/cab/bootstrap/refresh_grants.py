"""Builds refresh_grants: the only reader of grants."""

from __future__ import annotations

from collections.abc import Sequence

from cab.bootstrap.shared import Handler, Parts
from cab.settings import (
    RefreshGrantsSettings,
)
from cab.stores.grants import Grants
from cab.transport.grants_http import Callers, GrantEndpoints
from cab.use_cases.audit.outbox import Outbox
from cab.use_cases.grants.move import MoveGrants
from cab.use_cases.grants.narrow import NarrowTokens
from cab.use_cases.grants.refresh.caller import RefreshGrant
from cab.use_cases.grants.refresh.escrow import Escrow
from cab.use_cases.grants.reinstate import ReinstateGrant
from cab.use_cases.grants.revoke import RevokeGrants
from cab.use_cases.grants.serve import ServeGrant
from cab.use_cases.grants.sweep import SweepGrants
from cab.use_cases.grants.trusted.tokens import TrustedTokens
from cab.use_cases.identity.authenticate_service import ServiceAuthenticator
from cab.use_cases.identity.verify_assertion import AssertionVerifier
from cab.use_cases.upstream.revoke import RevokeUpstream


def refresh_grants(settings: RefreshGrantsSettings) -> Handler:
    from cab.adapters.google_cloud.pubsub.publisher import Message, PubSubPublisher
    from cab.adapters.store_clock import StoreClock

    parts = Parts(settings, "refresh_grants")
    deployment, randomness = parts.deployment, parts.randomness
    clock = StoreClock(parts.documents("grants"), parts.clock)
    keys = parts.keys(clients={}, own=True)
    store = Grants(parts.documents("grants"))
    payloads = parts.grant_payloads
    calls = parts.provider_calls()
    escrow, revoke_upstream = Escrow(parts.secrets, deployment.broker.escrow_key), RevokeUpstream(calls)
    outbox = Outbox(deployment, store, parts.audit_log, clock)
    refresher = RefreshGrant(deployment, store, payloads, calls, escrow, revoke_upstream, outbox, clock, randomness)
    narrow_tokens = NarrowTokens(deployment.broker, store, refresher, calls, clock)
    trusted_tokens = TrustedTokens(deployment.broker, store, calls, parts.secrets, keys, outbox, clock, randomness)
    revoker = RevokeGrants(deployment, store, payloads, escrow, revoke_upstream, outbox, clock, randomness)
    mover = MoveGrants(deployment, store, payloads, outbox, clock, randomness)
    publisher = PubSubPublisher(settings.project)
    parts.closers.append(publisher.close)

    async def fan_out(grant_ids: Sequence[str]) -> None:
        await publisher.publish(settings.due_topic, [Message(grant_id.encode(), {}) for grant_id in grant_ids])

    endpoints = GrantEndpoints(
        ServeGrant(
            deployment,
            AssertionVerifier(deployment.broker, keys, parts.clock),
            refresher,
            narrow_tokens,
            trusted_tokens,
        ),
        revoker,
        SweepGrants(deployment, store, payloads, refresher, revoker, mover, outbox, clock),
        ReinstateGrant(deployment, store, outbox, clock, randomness),
        mover,
        services=ServiceAuthenticator(
            issuer=settings.google_issuer, audience=settings.own_url, keys=keys, clock=parts.clock
        ),
        callers=Callers(
            token=frozenset(settings.token_callers),
            revoke=frozenset(settings.revoke_callers),
            sweep=frozenset(settings.sweep_callers),
        ),
        fan_out=fan_out,
        synchronize=clock.synchronize,
        auditor=parts.auditor,
        randomness=randomness,
    )
    return parts.handler(endpoints.handle)

"""Builds mint_assertion: an IdP login in, an assertion out."""

from __future__ import annotations

from cab.bootstrap.shared import Handler, Parts
from cab.domain.audit import EventType
from cab.settings import (
    MintAssertionSettings,
)
from cab.stores.signing_keys import Issuer
from cab.transport.oauth_http import OAuthEndpoints, OAuthRoute, json_body
from cab.use_cases.edge.mint_assertion import MintAssertion
from cab.use_cases.identity.verify_dpop import DpopVerifier


def mint_assertion(settings: MintAssertionSettings) -> Handler:

    parts = Parts(settings, "mint_assertion")
    deployment = parts.deployment
    broker = deployment.broker
    keys = parts.keys(clients=deployment.front_end_by_id, users=True)
    mint = MintAssertion(
        deployment,
        parts.authenticator(
            deployment.front_end_by_id, issuer=broker.edge_issuer, endpoint=f"{broker.origin}/edge/token", keys=keys
        ),
        keys,
        parts.own_keys(Issuer.EDGE),
        DpopVerifier(f"{broker.origin}/edge/token", parts.single_use, parts.clock),
        parts.still_here,
        parts.clock,
        parts.randomness,
    )
    routes = {"/edge/token": OAuthRoute(mint, EventType.ASSERTION_MINTED, lambda minted: json_body(minted.body()))}
    return parts.handler(OAuthEndpoints(routes, parts.auditor, parts.randomness).handle)

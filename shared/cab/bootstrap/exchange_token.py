"""Builds exchange_token: intent in, a narrow token out; introspection and revocation."""

from __future__ import annotations

from cab.bootstrap.shared import Handler, Parts, policies_of
from cab.domain.audit import EventType
from cab.settings import (
    ExchangeTokenSettings,
)
from cab.stores.approvals import ApprovalDecisions, ApprovalRequests
from cab.stores.calls import CallIds, ReportedOutcomes
from cab.stores.deferrals import Deferrals
from cab.stores.grants import Grants
from cab.stores.issued_tokens import IssuedTokens
from cab.stores.limits import RateLimits, TaskBudgets
from cab.stores.signing_keys import Issuer
from cab.transport.calls.deciding import JSON_MEDIA_TYPE, InternalCalls, Outcomes, ToldOutcomes, parse_json
from cab.transport.oauth_http import OAuthEndpoints, OAuthRoute, empty_body, json_body
from cab.use_cases.exchange.calls.internal import DecideCall
from cab.use_cases.exchange.calls.outcomes import ReportOutcome
from cab.use_cases.exchange.calls.token import CallTokens
from cab.use_cases.exchange.calls.told import Attempts, NoteOutcome
from cab.use_cases.exchange.confirm import Confirmations
from cab.use_cases.exchange.deferral import Defer, Poll
from cab.use_cases.exchange.delegate import Delegate
from cab.use_cases.exchange.endpoint import ExchangeToken
from cab.use_cases.exchange.id_jag import RedeemIdJag
from cab.use_cases.exchange.identify import Subjects
from cab.use_cases.exchange.inspect import IntrospectToken, RevokeToken
from cab.use_cases.exchange.issue import BrokerTokens, DownstreamTokens
from cab.use_cases.exchange.steps import Steps
from cab.use_cases.identity.authenticate_service import ServiceAuthenticator
from cab.use_cases.identity.verify_assertion import AssertionVerifier
from cab.use_cases.identity.verify_call_token import CallTokenVerifier
from cab.use_cases.identity.verify_dpop import DpopVerifier


def exchange_token(settings: ExchangeTokenSettings) -> Handler:

    parts = Parts(settings, "exchange_token")
    deployment, clock, randomness = parts.deployment, parts.clock, parts.randomness
    broker = deployment.broker
    guards = parts.documents("guards")
    keys = parts.keys(clients=deployment.agent_by_id, own=True, users=True)
    signer = parts.own_keys(Issuer.STS)
    authenticator = parts.authenticator(
        deployment.agent_by_id, issuer=broker.sts_issuer, endpoint=f"{broker.origin}/oauth2/token", keys=keys
    )
    issued_tokens = IssuedTokens(guards)
    policies = policies_of(settings, deployment)
    deferrals = Deferrals(guards)
    confirmations = Confirmations(
        broker,
        ApprovalRequests(guards),
        ApprovalDecisions(parts.documents("approvals")),
        randomness,
    )
    defer = Defer(deployment, confirmations, deferrals, randomness)
    single_use = parts.single_use
    call_ids = CallIds(guards)
    steps = Steps(
        deployment,
        policies=policies,
        rate_limits=RateLimits(guards, broker.rate_limits),
        budgets=TaskBudgets(guards),
        confirmations=confirmations,
        broker_tokens=BrokerTokens(deployment, signer, clock, randomness),
        downstream_tokens=DownstreamTokens(
            deployment,
            Grants(parts.documents("grants")),
            parts.refresh_grants(settings.refresh_grants_url),
            signer,
            clock,
            randomness,
        ),
        issued_tokens=issued_tokens,
        signer=signer,
        call_ids=call_ids,
        defer=defer,
        clock=clock,
        randomness=randomness,
    )
    poll = Poll(
        deployment,
        policies=policies,
        confirmations=confirmations,
        deferrals=deferrals,
        defer=defer,
        steps=steps,
        still_here=parts.still_here,
        clock=clock,
    )
    exchange = ExchangeToken(
        authenticator=authenticator,
        dpop=DpopVerifier(f"{broker.origin}/oauth2/token", parts.single_use, clock),
        subjects=Subjects(authenticator, AssertionVerifier(broker, keys, clock), parts.still_here),
        redeem_id_jag=RedeemIdJag(deployment, keys, parts.single_use, clock, randomness),
        steps=steps,
        delegate=Delegate(deployment, signer, clock, randomness),
        still_here=parts.still_here,
        call_tokens=CallTokens(deployment, signer, clock, randomness),
        poll=poll,
        clock=clock,
    )
    inspected = (deployment, authenticator, keys, issued_tokens, clock)
    routes = {
        "/oauth2/token": OAuthRoute(exchange, EventType.EXCHANGE_DECIDED, json_body),
        "/oauth2/introspect": OAuthRoute(IntrospectToken(*inspected), EventType.TOKEN_INTROSPECTED, json_body),
        "/oauth2/revoke": OAuthRoute(RevokeToken(*inspected), EventType.TOKEN_REVOKED, empty_body),
    }
    outcomes = Outcomes(ReportOutcome(deployment, authenticator, keys, issued_tokens, ReportedOutcomes(guards), clock))
    routes["/oauth2/outcomes"] = OAuthRoute(
        outcomes, EventType.TOOL_EXECUTED, empty_body, media_type=JSON_MEDIA_TYPE, parse=parse_json, status=204
    )
    if settings.own_url is not None:
        attempts = Attempts(deployment, keys, clock)
        decide_call = DecideCall(
            deployment,
            policies=policies,
            verifier=CallTokenVerifier(broker, keys, clock),
            attempts=attempts,
            single_use=single_use,
            steps=steps,
            poll=poll,
            still_here=parts.still_here,
            clock=clock,
            randomness=randomness,
        )
        services = ServiceAuthenticator(
            issuer=settings.google_issuer, audience=settings.own_url, keys=keys, clock=parts.clock
        )
        callers = frozenset(settings.call_callers)
        routes["/internal/outcomes"] = OAuthRoute(
            ToldOutcomes(NoteOutcome(attempts, issued_tokens), services, callers),
            EventType.REQUEST_REFUSED,
            empty_body,
            media_type=JSON_MEDIA_TYPE,
            parse=parse_json,
            status=204,
            is_silent=True,
        )
        routes["/internal/calls"] = OAuthRoute(
            InternalCalls(decide_call, services, callers),
            EventType.EXCHANGE_DECIDED,
            json_body,
            media_type=JSON_MEDIA_TYPE,
            parse=parse_json,
        )
    return parts.handler(OAuthEndpoints(routes, parts.auditor, randomness).handle)

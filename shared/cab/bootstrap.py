"""The composition root: settings and configuration in, one request handler out, for each function.

Everything below receives what it needs; nothing below reads the environment. Clients connect on first use, inside the
running loop, because the server imports this module before it forks. Heavy libraries are imported by the function that
needs them: a cold start pays for nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from cab.adapters.system import SystemClock, SystemRandomness
from cab.domain.audit import EventType
from cab.domain.configured.clients import Agent, FrontEnd, PrivateKeyJwt
from cab.domain.configured.deployment import Deployment
from cab.ports import AuditLog, HttpClient, PolicyEngine, SecretVault, VerificationKeys
from cab.settings import (
    AuditingSettings,
    ConfiguredSettings,
    ConnectAccountSettings,
    ExchangeTokenSettings,
    FunctionSettings,
    IngestAuditSettings,
    MintAssertionSettings,
    PublishMetadataSettings,
    RefreshGrantsSettings,
)

# Cycles are looked for every so many new objects. With the default of 700, the young ones are the requests under way, looked
# at again and again: a twentieth of an exchange's CPU.
GARBAGE_THRESHOLDS: Final = (20_000, 20, 20)

Handler = Callable[[Request], Awaitable[Response]]
Closer = Callable[[], Awaitable[None]]


def mint_assertion(settings: MintAssertionSettings) -> Handler:
    from cab.stores.signing_keys import Issuer
    from cab.transport.oauth_http import OAuthEndpoints, Route, json_body
    from cab.use_cases.edge.mint_assertion import MintAssertion
    from cab.use_cases.identity.verify_dpop import DpopVerifier

    parts = _Parts(settings, "mint_assertion")
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
        parts.clock,
        parts.randomness,
    )
    routes = {"/edge/token": Route(mint, EventType.ASSERTION_MINTED, lambda minted: json_body(minted.body()))}
    return parts.handler(OAuthEndpoints(routes, parts.auditor, parts.randomness).handle)


def exchange_token(settings: ExchangeTokenSettings) -> Handler:
    from cab.stores.approvals import ApprovalDecisions, ApprovalRequests
    from cab.stores.deferrals import Deferrals
    from cab.stores.grants import Grants
    from cab.stores.issued_tokens import IssuedTokens
    from cab.stores.limits import RateLimits, TaskBudgets
    from cab.stores.signing_keys import Issuer
    from cab.transport.oauth_http import OAuthEndpoints, Route, empty_body, json_body
    from cab.use_cases.exchange.confirm import Confirmations
    from cab.use_cases.exchange.deferral import Defer, Poll
    from cab.use_cases.exchange.delegate import Delegate
    from cab.use_cases.exchange.endpoint import ExchangeToken
    from cab.use_cases.exchange.id_jag import RedeemIdJag
    from cab.use_cases.exchange.identify import Subjects
    from cab.use_cases.exchange.inspect import IntrospectToken, RevokeToken
    from cab.use_cases.exchange.issue import BrokerTokens, DownstreamTokens
    from cab.use_cases.exchange.steps import Steps
    from cab.use_cases.identity.verify_assertion import AssertionVerifier
    from cab.use_cases.identity.verify_dpop import DpopVerifier

    parts = _Parts(settings, "exchange_token")
    deployment, clock, randomness = parts.deployment, parts.clock, parts.randomness
    broker = deployment.broker
    guards = parts.documents("guards")
    keys = parts.keys(clients=deployment.agent_by_id, own=True, users=True)
    signer = parts.own_keys(Issuer.STS)
    authenticator = parts.authenticator(
        deployment.agent_by_id, issuer=broker.sts_issuer, endpoint=f"{broker.origin}/oauth2/token", keys=keys
    )
    issued_tokens = IssuedTokens(guards)
    policies = _policies(settings, deployment)
    deferrals = Deferrals(guards)
    confirmations = Confirmations(
        broker,
        ApprovalRequests(guards, parts.single_use),
        ApprovalDecisions(parts.documents("approvals")),
        randomness,
    )
    defer = Defer(deployment, confirmations, deferrals, randomness)
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
        defer=defer,
        clock=clock,
        randomness=randomness,
    )
    exchange = ExchangeToken(
        authenticator=authenticator,
        dpop=DpopVerifier(f"{broker.origin}/oauth2/token", parts.single_use, clock),
        subjects=Subjects(authenticator, AssertionVerifier(broker, keys, clock)),
        redeem_id_jag=RedeemIdJag(deployment, keys, parts.single_use, clock, randomness),
        steps=steps,
        delegate=Delegate(deployment, signer, clock, randomness),
        poll=Poll(
            deployment,
            policies=policies,
            confirmations=confirmations,
            deferrals=deferrals,
            defer=defer,
            steps=steps,
            clock=clock,
        ),
        clock=clock,
    )
    inspected = (deployment, authenticator, keys, issued_tokens, clock)
    routes = {
        "/oauth2/token": Route(exchange, EventType.EXCHANGE_DECIDED, json_body),
        "/oauth2/introspect": Route(IntrospectToken(*inspected), EventType.TOKEN_INTROSPECTED, json_body),
        "/oauth2/revoke": Route(RevokeToken(*inspected), EventType.TOKEN_REVOKED, empty_body),
    }
    return parts.handler(OAuthEndpoints(routes, parts.auditor, randomness).handle)


def publish_metadata(settings: PublishMetadataSettings) -> Handler:
    from cab.stores.signing_keys import SigningKeys
    from cab.transport.metadata_http import MetadataEndpoints

    parts = _Parts(settings, "publish_metadata")
    endpoints = MetadataEndpoints(parts.deployment, SigningKeys(parts.documents("keys")), parts.clock, parts.randomness)
    return parts.handler(endpoints.handle)


def refresh_grants(settings: RefreshGrantsSettings) -> Handler:
    from cab.adapters.google_cloud.pubsub.publisher import Message, PubSubPublisher
    from cab.adapters.store_clock import StoreClock
    from cab.stores.grant_payloads import GrantPayloads
    from cab.stores.grants import Grants
    from cab.transport.grants_http import Callers, GrantEndpoints
    from cab.use_cases.grants.narrow import NarrowTokens
    from cab.use_cases.grants.refresh.caller import RefreshGrant
    from cab.use_cases.grants.reinstate import AllowAgain
    from cab.use_cases.grants.revoke import RevokeGrants
    from cab.use_cases.grants.serve import ServeGrant
    from cab.use_cases.grants.sweep import SweepGrants
    from cab.use_cases.grants.trusted.tokens import TrustedTokens
    from cab.use_cases.identity.authenticate_service import ServiceAuthenticator
    from cab.use_cases.identity.verify_assertion import AssertionVerifier

    parts = _Parts(settings, "refresh_grants")
    deployment, randomness = parts.deployment, parts.randomness
    clock = StoreClock(parts.documents("grants"), parts.clock)
    keys = parts.keys(clients={}, own=True)
    store = Grants(parts.documents("grants"))
    payloads = GrantPayloads(parts.grant_vault)
    calls = parts.provider_calls()
    refresher = RefreshGrant(deployment, store, payloads, calls, parts.secrets, parts.audit_log, clock, randomness)
    narrow_tokens = NarrowTokens(deployment.broker, store, refresher, calls, clock)
    trusted_tokens = TrustedTokens(
        deployment.broker, store, calls, parts.secrets, keys, refresher.outbox, clock, randomness
    )
    revoker = RevokeGrants(deployment, store, payloads, refresher, clock, randomness)
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
        SweepGrants(deployment, store, payloads, refresher, revoker, clock),
        AllowAgain(deployment, store, refresher.outbox, clock, randomness),
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


def connect_account(settings: ConnectAccountSettings) -> Handler:
    from cab.adapters.cedar.checks import never_permitted
    from cab.stores.approvals import ApprovalDecisions, ApprovalRequests
    from cab.stores.grant_payloads import GrantPayloads
    from cab.stores.grants import Grants
    from cab.stores.issued_tokens import IssuedTokens
    from cab.stores.sessions import BrowserStates
    from cab.transport.pages import pages_app

    parts = _Parts(settings, "connect_account")
    guards = parts.documents("guards")
    # Sessions beside the decisions, in the database that this function alone writes: whoever could write a session
    # could approve in its name.
    approvals = parts.documents("approvals")
    pages = pages_app(
        replace(parts.deployment, never_permitted=never_permitted(parts.deployment)),
        states=BrowserStates(approvals),
        grants=Grants(parts.documents("grants")),
        payloads=GrantPayloads(parts.grant_vault),
        provider_calls=parts.provider_calls(),
        idp_http=parts.http(
            {url for idp in parts.deployment.identity_providers for url in (idp.issuer, *idp.endpoint_origins)},
            what="identity_provider",
            keep_alive=False,
        ),
        keys=parts.keys(clients={}, users=True),
        client_secrets=parts.secrets,
        approval_requests=ApprovalRequests(guards, parts.single_use),
        approval_decisions=ApprovalDecisions(approvals),
        issued_tokens=IssuedTokens(guards),
        grant_tokens=parts.refresh_grants(settings.refresh_grants_url),
        audit_log=parts.audit_log,
        auditor=parts.auditor,
        clock=parts.clock,
        randomness=parts.randomness,
    )
    return parts.handler(pages)


def ingest_audit(settings: IngestAuditSettings) -> Handler:
    from cab.adapters.google_cloud.bigquery.audit_rows import BigQueryAuditRows
    from cab.adapters.google_cloud.bigquery.audit_schema import row_of
    from cab.adapters.google_cloud.pubsub.quarantine import PubSubQuarantine
    from cab.adapters.rows_file import RowsFile
    from cab.transport.audit_push import AuditPush
    from cab.use_cases.audit.ingest import IngestAuditEvent
    from cab.use_cases.identity.authenticate_service import ServiceAuthenticator

    parts = _Basics(settings, "ingest_audit")
    quarantine = PubSubQuarantine(settings.project, settings.quarantine_topic)
    parts.closers.append(quarantine.close)
    if settings.rows_file is not None:
        rows: RowsFile | BigQueryAuditRows = RowsFile(settings.rows_file)
    else:
        rows = BigQueryAuditRows(settings.project, settings.dataset, settings.table)
        parts.closers.append(rows.close)
    push = AuditPush(
        IngestAuditEvent(rows, quarantine, parts.clock, row_of),
        services=ServiceAuthenticator(
            issuer=settings.google_issuer, audience=settings.own_url, keys=parts.google_keys(), clock=parts.clock
        ),
        push_account=settings.push_account,
        subscription=settings.subscription,
        randomness=parts.randomness,
    )
    return parts.handler(push.handle)


class _Basics:
    """What every function has."""

    def __init__(self, settings: FunctionSettings, name: str) -> None:
        from cab.transport.logs import configure_logging

        gc.set_threshold(*GARBAGE_THRESHOLDS)
        configure_logging()
        self.settings = settings
        self.name = name
        self.clock = SystemClock()
        self.randomness = SystemRandomness()
        self.closers: list[Closer] = []
        self.has_https_origin = False  # of what is not public

    def google_keys(self) -> VerificationKeys:
        from cab.adapters.http.client import AiohttpClient, origin_of
        from cab.adapters.keys.key_sets import KeySource, RemoteKeySets

        uri = self.settings.google_jwks_uri
        # http only ever passes for loopback, and only where the local stack's own signer is configured.
        local = uri.startswith("http://") and not self.settings.in_the_cloud
        http = AiohttpClient([origin_of(uri)], what="identity_provider", allow_loopback_http=local)
        self.closers.append(http.close)
        return RemoteKeySets({self.settings.google_issuer: KeySource(jwks_uri=uri)}, http, self.clock)

    def handler(self, handle: Handler) -> Handler:
        """The function the framework serves: named as its target, closing what is open when the process stops."""
        from cab.transport.requests import hardening

        closing: list[asyncio.Task[None]] = []
        headers = hardening(https=self.has_https_origin)

        async def function(request: Request) -> Response:
            if not closing and self.closers:
                closing.append(asyncio.create_task(_close_at_the_end(self.closers)))
                _let_the_loop_end()
            answer = await handle(request)
            answer.headers.update(headers)
            return answer

        function.__name__ = function.__qualname__ = self.name
        return function


class _Parts(_Basics):
    """What the configured functions share; built once per process, each part on first use."""

    def __init__(self, settings: ConfiguredSettings, name: str) -> None:
        super().__init__(settings, name)
        self._configured = settings
        self.deployment = _load(settings)
        self.has_https_origin = self.deployment.broker.origin.startswith("https://")
        self._databases: dict[str, Any] = {}
        self._own: dict[Any, Any] = {}
        self._log: AuditLog | None = None
        self._auditor: Any = None
        self._vault: Any = None
        self._secrets: Any = None

    def documents(self, database: str) -> Any:
        from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments

        if database not in self._databases:
            opened = self._databases[database] = FirestoreDocuments(self.settings.project, database)
            self.closers.append(opened.close)
        return self._databases[database]

    @property
    def single_use(self) -> Any:
        from cab.stores.single_use import SingleUse

        return SingleUse(self.documents("guards"))

    @property
    def vault(self) -> Any:
        from cab.adapters.google_cloud.secrets import SecretManagerVault

        if self._vault is None:
            settings = self._configured
            self._vault = SecretManagerVault(
                settings.project, location=settings.secret_location, kms_key=settings.kms_key
            )
            self.closers.append(self._vault.close)
        return self._vault

    @property
    def secrets(self) -> Any:
        """Keys and client secrets: few, read again and again, immutable by version."""
        from cab.adapters.keys.cached_secrets import CachedSecretReader

        if self._secrets is None:
            self._secrets = CachedSecretReader(self.vault)
        return self._secrets

    @property
    def grant_vault(self) -> SecretVault:
        """Where grant payloads are kept: the driver the configuration names."""
        if self.deployment.broker.grant_storage == "sealed_documents":
            from cab.adapters.sealed_documents import SealedDocumentsVault

            sealed: SecretVault = SealedDocumentsVault(self.documents("grants"), self.secrets)
            return sealed
        vault: SecretVault = self.vault
        return vault

    @property
    def audit_log(self) -> AuditLog:
        from cab.adapters.google_cloud.pubsub.audit_log import PubSubAuditLog

        if self._log is None:
            settings = self.settings
            if not isinstance(settings, AuditingSettings):
                raise TypeError("this function has no audit topic")
            opened = PubSubAuditLog(
                settings.project,
                settings.audit_topic,
                service=self.name,
                revision=settings.revision,
                clock=self.clock,
                randomness=self.randomness,
            )
            self.closers.insert(0, opened.close)  # first: what waits in it must still go out
            self._log = opened
        return self._log

    @property
    def auditor(self) -> Any:
        from cab.use_cases.audit.auditor import Auditor

        if self._auditor is None:
            self._auditor = Auditor(self.audit_log, self.clock, self.randomness)
            self.closers.insert(0, self._auditor.close)  # before the log's: what it says last goes out there
        return self._auditor

    def own_keys(self, issuer: Any) -> Any:
        from cab.adapters.keys.own_keys import OwnKeys
        from cab.stores.signing_keys import SigningKeys

        if issuer not in self._own:
            self._own[issuer] = OwnKeys(issuer, SigningKeys(self.documents("keys")), self.secrets, self.clock)
        return self._own[issuer]

    def keys(
        self, *, clients: Mapping[str, FrontEnd | Agent], own: bool = False, users: bool = False
    ) -> VerificationKeys:
        """Every source this function trusts, and no other: its clients, our issuers, the IdPs, workload issuers."""
        from cab.adapters.keys.key_sets import KeyDirectory, KeySource, RemoteKeySets, source_of
        from cab.protocol.jose.jwk import parse_set
        from cab.stores.signing_keys import Issuer
        from cab.use_cases.identity.authenticate_client import client_source

        broker = self.deployment.broker
        sources = {self.settings.google_issuer: KeySource(jwks_uri=self.settings.google_jwks_uri)}
        sources |= {item.issuer: KeySource(jwks_uri=item.jwks_uri) for item in broker.federated_issuers}
        if users:
            sources |= {item.issuer: source_of(item) for item in self.deployment.identity_providers}
        for client in clients.values():
            for method in client.authentication:
                if isinstance(method, PrivateKeyJwt):
                    inline = None if method.jwks is None else parse_set(method.jwks)
                    sources[client_source(client.client_id)] = KeySource(jwks_uri=method.jwks_uri, inline=inline)
        urls = {uri for source in sources.values() for uri in (source.jwks_uri, source.issuer, *source.origins) if uri}
        http = self.http(urls, what="identity_provider")
        rings = {broker.edge_issuer: self.own_keys(Issuer.EDGE), broker.sts_issuer: self.own_keys(Issuer.STS)}
        return KeyDirectory(rings if own else {}, RemoteKeySets(sources, http, self.clock))

    def authenticator(self, clients: Mapping[str, Any], *, issuer: str, endpoint: str, keys: VerificationKeys) -> Any:
        from cab.use_cases.identity.authenticate_client import ClientAuthenticator

        federated = {self.settings.google_issuer: frozenset({"RS256"})}
        federated |= {item.issuer: frozenset(item.algorithms) for item in self.deployment.broker.federated_issuers}
        return ClientAuthenticator(
            dict(clients),
            issuer=issuer,
            endpoint=endpoint,
            federated_algorithms=federated,
            keys=keys,
            single_use=self.single_use,
            secrets=self.secrets,
            clock=self.clock,
        )

    def refresh_grants(self, url: str) -> Any:
        from cab.adapters.google_cloud.service_tokens import GoogleServiceTokens
        from cab.adapters.refresh_grants_client import RefreshGrantsClient

        return RefreshGrantsClient(url, self.http({url}, what="grants"), GoogleServiceTokens(self.clock))

    def provider_calls(self) -> Any:
        from cab.use_cases.upstream.provider_client import ProviderCalls

        providers = [self.deployment.provider_of(connection) for connection in self.deployment.connections]
        urls = {url for provider in providers for url in provider.endpoints}
        return ProviderCalls(self.http(urls, what="provider", keep_alive=False), self.secrets)

    def http(self, urls: Iterable[str], *, what: str, keep_alive: bool = True) -> HttpClient:
        """A client that reaches the origins of these configured URLs, and nothing else."""
        from cab.adapters.http.client import AiohttpClient, origin_of

        client = AiohttpClient(
            {origin_of(url) for url in urls},
            what=what,
            allow_loopback_http=self.deployment.broker.allow_loopback_http,
            keep_alive=keep_alive,
            private_hosts=self.deployment.broker.private_hosts,
        )
        self.closers.append(client.close)
        return client


def _load(settings: ConfiguredSettings) -> Deployment:
    from cab.adapters.configuration.loader import FolderConfiguration

    with _or_exit(settings):
        return FolderConfiguration(settings.config_dir, os.environ).load()


def _policies(settings: ConfiguredSettings, deployment: Deployment) -> PolicyEngine:
    from cab.adapters.cedar.engine import CedarPolicyEngine

    with _or_exit(settings):
        return CedarPolicyEngine(deployment)


@contextmanager
def _or_exit(settings: ConfiguredSettings) -> Iterator[None]:
    """Exit with every mistake in the configuration folder: a revision that cannot be right must not start."""
    from cab.adapters.configuration.problems import ConfigurationRefused

    try:
        yield
    except ConfigurationRefused as error:
        sys.exit(f"The configuration in {settings.config_dir} cannot be used:\n{error}")


def _let_the_loop_end() -> None:
    """Make SIGTERM and SIGINT end the server's loop instead of the process.

    uvicorn finishes what is in flight and then raises the signal again, for the handler that stood before its own. In a
    worker of gunicorn that is the system's default: the process dies before its loop is shut down, and nothing that waits
    for cancellation runs. So the server is told to stop in the way it is told by programs, which remembers no signal.
    Elsewhere (another server, a thread, a test) the handlers stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        server = getattr(signal.getsignal(number), "__self__", None)
        if hasattr(server, "should_exit"):
            signal.signal(number, functools.partial(_stop, server))


def _stop(server: Any, *_: object) -> None:
    server.should_exit = True


async def _close_at_the_end(closers: list[Closer]) -> None:
    """Waits until the server's loop is shut down, which cancels it, then sends what still waits and closes connections."""
    try:
        await asyncio.Event().wait()
    finally:
        for close in closers:
            try:
                await close()
            except Exception as error:  # noqa: BLE001  # one connection that will not close must not keep the others open
                logging.getLogger(__name__).warning("closing failed: %s", type(error).__name__)

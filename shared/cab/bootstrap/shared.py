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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, runtime_checkable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from cab.adapters.system import SystemClock, SystemRandomness
from cab.domain.configured.clients import Agent, FrontEnd, PrivateKeyJwt
from cab.domain.configured.deployment import Deployment
from cab.encoding.trace_context import current as current_trace
from cab.ports import AuditLog, PolicyEngine, SecretVault, VerificationKeys
from cab.settings import (
    AuditingSettings,
    ConfiguredSettings,
    FunctionSettings,
)

if TYPE_CHECKING:  # what costs a cold start is imported where it is built
    from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
    from cab.adapters.google_cloud.secrets import SecretManagerVault
    from cab.adapters.http.client import AiohttpClient
    from cab.adapters.http.own_function import OwnFunction
    from cab.adapters.http.platforms import Platforms
    from cab.adapters.keys.cached_secrets import CachedSecretReader
    from cab.adapters.keys.own_keys import OwnKeys
    from cab.adapters.refresh_grants_client import RefreshGrantsClient
    from cab.adapters.spans import Span
    from cab.domain.grants import Storage
    from cab.stores.grant_payloads import GrantPayloads
    from cab.stores.signing_keys import Issuer
    from cab.stores.single_use import SingleUse
    from cab.use_cases.audit.auditor import Auditor
    from cab.use_cases.identity.authenticate_client import ClientAuthenticator
    from cab.use_cases.identity.still_here import StillHere
    from cab.use_cases.upstream.provider_client import ProviderCalls

_Client = TypeVar("_Client", FrontEnd, Agent)


class _Stopping(Protocol):
    timeout_graceful_shutdown: int | None


@runtime_checkable
class _Stoppable(Protocol):
    should_exit: bool
    config: _Stopping


# Cloud Run kills ten seconds after SIGTERM. Whoever sends its body by drops must not keep what waits from being published; a
# provider that is slow to answer is heard for as long as that leaves.
_FINISH_WITHIN_S: Final = 7

_under_way: Final[set[asyncio.Task[None]]] = set()  # until the process ends: the loop itself holds tasks only loosely

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
Handler = Callable[[Request], Awaitable[Response]]
Closer = Callable[[], Awaitable[None]]


class Basics:
    """What every function has."""

    def __init__(self, settings: FunctionSettings, name: str) -> None:
        from cab.transport.logs import configure_logging

        configure_logging(settings.project)
        self.settings = settings
        self.name = name
        self.clock = SystemClock()
        self.randomness = SystemRandomness()
        self.closers: list[Closer] = []
        self.stoppers: list[Closer] = []  # begun when the process is told to stop, while it still answers
        self.has_https_origin = False  # of what is not public
        if settings.trace_ratio:
            self._record_spans()

    def _record_spans(self) -> None:
        from cab.adapters import spans
        from cab.adapters.open_telemetry import OpenTelemetry, exporter

        settings = self.settings
        recorder = OpenTelemetry(
            exporter(settings.trace_endpoint),
            ratio=settings.trace_ratio,
            service=self.name,
            revision=settings.revision,
            project=settings.project,
        )
        spans.record_with(recorder)
        self.closers.append(recorder.close)

    def google_keys(self) -> VerificationKeys:
        from cab.adapters.http.origins import origin_of
        from cab.adapters.http.published import PublishedDocuments
        from cab.adapters.keys.key_sets import KeySource, RemoteKeySets

        uri = self.settings.google_jwks_uri
        # http only ever passes for loopback, and only where the local stack's own signer is configured.
        local = uri.startswith("http://") and not self.settings.in_the_cloud
        documents = PublishedDocuments([origin_of(uri)], what="identity_provider", allow_loopback_http=local)
        return RemoteKeySets({self.settings.google_issuer: KeySource(jwks_uri=uri)}, documents, self.clock)

    def handler(self, handle: Handler, *, most: int | None = None) -> Handler:
        """The function the framework serves: named as its target, closing what is open when the process stops.

        `most`: requests in the process at once, where they wait for others rather than for us.
        """
        from cab.adapters import spans
        from cab.bootstrap.direct import serve_directly
        from cab.transport.admission import Admission, admitted
        from cab.transport.requests import hardening, trace_of

        closing: list[asyncio.Task[None]] = []
        is_begun = False
        on_every_answer = Headers(hardening(https=self.has_https_origin)).raw
        admission = Admission(most=most) if most else Admission()
        take_on = admitted(handle, admission, self.randomness)

        async def function(request: Request) -> Response:
            token = current_trace.set(trace_of(request))
            try:
                with spans.of_request(self.name) as span:
                    answer = await take_on(request)
                    if spans.are_recorded():
                        _note(span, request, answer)
            finally:
                current_trace.reset(token)
            answer.raw_headers += [it for it in on_every_answer if it not in answer.raw_headers]  # pages have them
            return answer

        async def first(request: Request) -> Response:
            nonlocal is_begun
            if not is_begun:
                is_begun = True
                serve_directly(request.app, function)
                if self.closers:
                    closing.append(asyncio.create_task(_close_at_the_end(self.closers)))
                    _let_the_loop_end(self.stoppers)
            return await function(request)

        first.__name__ = first.__qualname__ = self.name
        _keep_what_is_built()
        return first


@functools.cache
def _keep_what_is_built() -> None:
    """The garbage collector never looks again at what a process has imported and built: it lives as long as the process.

    Otherwise each process goes through it all as it ends, for as long as half of its start took. Once: what comes later may be garbage.
    """
    gc.freeze()
    # With the default of 700 the young objects are the requests under way, looked at again and again: a twentieth of an exchange's CPU.
    gc.set_threshold(20_000, 20, 20)


def _note(span: Span, request: Request, answer: Response) -> None:
    span.note("http.request.method", request.method if request.method in _METHODS else "_OTHER")
    span.note("http.response.status_code", answer.status_code)
    txn = answer.headers.get("cab-txn")
    if txn is not None:  # by which the audit knows it
        span.note("cab.txn", txn)


class Parts(Basics):
    """What the configured functions share; built once per process, each part on first use."""

    def __init__(self, settings: ConfiguredSettings, name: str, *, keeps_unsent: bool = True) -> None:
        super().__init__(settings, name)
        self._configured = settings
        self._keeps_unsent = keeps_unsent
        self.deployment = _load(settings)
        self.has_https_origin = self.deployment.broker.origin.startswith("https://")
        self._databases: dict[str, FirestoreDocuments] = {}
        self._own: dict[Issuer, OwnKeys] = {}
        self._log: AuditLog | None = None
        self._auditor: Auditor | None = None
        self._vault: SecretManagerVault | None = None
        self._secrets: CachedSecretReader | None = None

    def documents(self, database: str) -> FirestoreDocuments:
        from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments

        if database not in self._databases:
            opened = self._databases[database] = FirestoreDocuments(self.settings.project, database)
            self.closers.append(opened.close)
        return self._databases[database]

    @property
    def single_use(self) -> SingleUse:
        from cab.stores.single_use import SingleUse

        return SingleUse(self.documents("guards"))

    @property
    def vault(self) -> SecretManagerVault:
        from cab.adapters.google_cloud.secrets import SecretManagerVault

        if self._vault is None:
            settings = self._configured
            self._vault = SecretManagerVault(
                settings.project, location=settings.secret_location, kms_key=settings.kms_key
            )
            self.closers.append(self._vault.close)
        return self._vault

    @property
    def secrets(self) -> CachedSecretReader:
        """Keys and client secrets: few, read again and again, immutable by version."""
        from cab.adapters.keys.cached_secrets import CachedSecretReader

        if self._secrets is None:
            self._secrets = CachedSecretReader(self.vault)
        return self._secrets

    @property
    def grant_payloads(self) -> GrantPayloads:
        """Where token sets are kept: the driver that the configuration names and, while grants move, the one before."""
        from cab.stores.grant_payloads import GrantPayloads

        broker = self.deployment.broker
        before = broker.grant_storage_before
        return GrantPayloads(
            self._vault_of(broker.grant_storage),
            storage=broker.grant_storage,
            before=None if before is None else (before, self._vault_of(before)),
        )

    def _vault_of(self, storage: Storage) -> SecretVault:
        if storage == "secret_per_grant":
            return self.vault
        from cab.adapters.sealed_documents import SealedDocumentsVault

        return SealedDocumentsVault(
            self.documents("grants"), self.secrets, key_version=self.deployment.broker.grant_data_key
        )

    @property
    def audit_log(self) -> AuditLog:
        from cab.adapters.google_cloud.pubsub.audit_log import PubSubAuditLog
        from cab.use_cases.audit.unsent import UnsentEvents

        if self._log is None:
            settings = self.settings
            if not isinstance(settings, AuditingSettings):
                raise TypeError("this function has no audit topic")
            opened = PubSubAuditLog(
                settings.project,
                settings.audit_topic,
                service=self.name,
                revision=settings.revision,
                unsent=UnsentEvents(self.documents("unsent"), self.clock) if self._keeps_unsent else None,
                clock=self.clock,
                randomness=self.randomness,
            )
            self.closers.insert(0, opened.close)  # first: what waits in it must still go out
            self._log = opened
        return self._log

    @property
    def auditor(self) -> Auditor:
        from cab.use_cases.audit.auditor import Auditor

        if self._auditor is None:
            self._auditor = Auditor(self.audit_log, self.clock, self.randomness)
            self.closers.insert(0, self._auditor.close)  # before the log's: what it says last goes out there
        return self._auditor

    def own_keys(self, issuer: Issuer) -> OwnKeys:
        from cab.adapters.keys.own_keys import OwnKeys
        from cab.stores.signing_keys import SigningKeys

        if issuer not in self._own:
            self._own[issuer] = OwnKeys(issuer, SigningKeys(self.documents("keys")), self.secrets, self.clock)
        return self._own[issuer]

    def keys(
        self, *, clients: Mapping[str, FrontEnd | Agent], own: bool = False, users: bool = False
    ) -> VerificationKeys:
        """Every source this function trusts, and no other: its clients, our issuers, the IdPs, workload issuers."""
        from cab.adapters.http.origins import origin_of
        from cab.adapters.http.published import PublishedDocuments
        from cab.adapters.keys.key_sets import KeyDirectory, KeySource, RemoteKeySets, source_of
        from cab.protocol.jose.jwk import parse_set
        from cab.stores.signing_keys import Issuer
        from cab.use_cases.identity.authenticate_client import client_source

        broker = self.deployment.broker
        sources = {self.settings.google_issuer: KeySource(jwks_uri=self.settings.google_jwks_uri)}
        sources |= {item.issuer: KeySource(jwks_uri=item.jwks_uri) for item in broker.federated_issuers}
        if users:
            from cab.domain.configured.deployment import signals_source

            sources |= {item.issuer: source_of(item) for item in self.deployment.identity_providers}
            sources |= {
                signals_source(item): KeySource(jwks_uri=item.shared_signals.jwks_uri)
                for item in self.deployment.identity_providers
                if item.shared_signals is not None and item.shared_signals.jwks_uri is not None
            }
        for client in clients.values():
            for method in client.authentication:
                if isinstance(method, PrivateKeyJwt):
                    inline = None if method.jwks is None else parse_set(method.jwks)
                    sources[client_source(client.client_id)] = KeySource(jwks_uri=method.jwks_uri, inline=inline)
        urls = {uri for source in sources.values() for uri in (source.jwks_uri, source.issuer, *source.origins) if uri}
        documents = PublishedDocuments(
            {origin_of(url) for url in urls},
            what="identity_provider",
            allow_loopback_http=broker.allow_loopback_http,
            private_hosts=broker.private_hosts,
        )
        rings = {broker.edge_issuer: self.own_keys(Issuer.EDGE), broker.sts_issuer: self.own_keys(Issuer.STS)}
        return KeyDirectory(rings if own else {}, RemoteKeySets(sources, documents, self.clock))

    def authenticator(
        self, clients: Mapping[str, _Client], *, issuer: str, endpoint: str, keys: VerificationKeys
    ) -> ClientAuthenticator[_Client]:
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

    @property
    def still_here(self) -> StillHere:
        from cab.stores.people.departures import Departures
        from cab.use_cases.identity.still_here import StillHere

        return StillHere(self.deployment, Departures(self.documents("approvals")), self.clock)

    def refresh_grants(self, url: str) -> RefreshGrantsClient:
        from cab.adapters.google_cloud.service_tokens import GoogleServiceTokens
        from cab.adapters.refresh_grants_client import RefreshGrantsClient

        return RefreshGrantsClient(url, self.own_function(url, what="grants"), GoogleServiceTokens(self.clock))

    def own_function(self, url: str, *, what: str, connections: int = 100) -> OwnFunction:
        """A client that reaches this function of ours, and nothing else."""
        from cab.adapters.http.own_function import OwnFunction

        client = OwnFunction(
            url,
            what=what,
            allow_loopback_http=self.deployment.broker.allow_loopback_http,
            private_hosts=self.deployment.broker.private_hosts,
            connections=connections,
        )
        self.closers.append(client.close)
        return client

    def provider_calls(self) -> ProviderCalls:
        from cab.use_cases.upstream.provider_client import ProviderCalls

        providers = [self.deployment.provider_of(connection) for connection in self.deployment.connections]
        urls = {url for provider in providers for url in provider.endpoints}
        return ProviderCalls(self.http(urls, what="provider", keep_alive=False), self.secrets)

    def platforms(self, urls: Iterable[str], *, keep_alive: bool, connections: int, large_at_once: int) -> Platforms:
        """What calls the origins of these configured URLs, and nothing else."""
        from cab.adapters.http.origins import origin_of
        from cab.adapters.http.platforms import Platforms

        client = Platforms(
            {origin_of(url) for url in urls},
            what="provider",
            allow_loopback_http=self.deployment.broker.allow_loopback_http,
            keep_alive=keep_alive,
            private_hosts=self.deployment.broker.private_hosts,
            connections=connections,
            large_at_once=large_at_once,
        )
        self.closers.append(client.close)
        return client

    def http(self, urls: Iterable[str], *, what: str, keep_alive: bool = True) -> AiohttpClient:
        """A client that reaches the origins of these configured URLs, and nothing else."""
        from cab.adapters.http.client import AiohttpClient
        from cab.adapters.http.origins import origin_of

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


def policies_of(settings: ConfiguredSettings, deployment: Deployment) -> PolicyEngine:
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


def _let_the_loop_end(stoppers: list[Closer]) -> None:
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
        if isinstance(server, _Stoppable):
            signal.signal(number, functools.partial(_stop, server, asyncio.get_running_loop(), stoppers))


def _stop(server: _Stoppable, loop: asyncio.AbstractEventLoop, stoppers: list[Closer], *_: object) -> None:
    server.config.timeout_graceful_shutdown = _FINISH_WITHIN_S
    server.should_exit = True
    while stoppers:  # a second signal finds them begun
        loop.call_soon_threadsafe(_begin, stoppers.pop(0))


def _begin(stop: Closer) -> None:
    _under_way.add(asyncio.create_task(_see_through(stop)))


async def _see_through(stop: Closer) -> None:
    await stop()


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

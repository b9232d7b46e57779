"""Everything the functions talk to, on this machine: embedded emulators, Google's identities, an IdP, refresh_grants.

None of it runs on the servers' core, and none of its CPU is counted. Each measured function has a project of its own, so
that the emulators' call log tells whose calls are whose.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from aiohttp import web
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from benchmarks.clients import AGENT, FRONT_END, SCOPES, TENANT, Clients, EcKey, IdentityProvider, Publisher, person
from benchmarks.processes import HOST, ROOT, Function, Server
from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.domain.audit import read_json
from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant, TokenSet, grant_id
from cab.encoding import strict_json
from cab.protocol.jose.jwk import private_key
from cab.stores.grant_payloads import GrantPayloads
from cab.stores.grants import Grants
from cab.stores.sessions import BrowserStates, Session
from cab.stores.signing_keys import SECRET, Issuer, SigningKeys
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET
from cab_dev import loopback
from cab_dev.local_cloud import AUDIT_TOPIC, create_signing_keys, store_secrets
from cab_dev.processes.ports import PortLeases
from cab_dev.services import google_identity
from gcp_emulators import Emulators, running

ORIGIN = "http://127.0.0.1:8080"  # only ever compared: the functions are called where they listen
RESOURCES = {  # nobody calls them; the CRM answers where `platform` says
    "tracker": "http://127.0.0.1:8083",
    "warehouse": "http://127.0.0.1:8084",
}
ACCESS_TOKEN = "a" * 300
SLOW, PLATFORM_WAIT_S = "slow", 0.1
SESSION, CSRF = "s" * 43, "c"
INGEST, SUBSCRIPTION = "http://127.0.0.1:8096", "projects/{}/subscriptions/cab-audit-ingest"
_GOOGLE = "https://accounts.google.com"
_ACCOUNT = "{}@demo-bench.iam.gserviceaccount.com"
_EXAMPLE = ROOT / "examples" / "acme"
DEFAULT, FIRST_WRITES, MANY_SCOPES = "default", "first-writes", "many-scopes"
# These differ from the default in their connections alone: what stands there instead.
_CONNECTIONS = {
    FIRST_WRITES: ("    resource:", "    records_each_write: false\n    resource:"),
    MANY_SCOPES: ("scopes: [opportunity.read]", f"scopes: [{', '.join(SCOPES)}]"),
}
_CONFIGURATION = ROOT / "benchmarks" / "deployment"


@dataclass
class Outside:
    """The platform and BigQuery's stand-in: how much longer they take, and when each call came and ended (time.perf_counter)."""

    delay_s: float = 0.0
    calls: list[tuple[float, float]] = field(default_factory=list)

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        came_at = time.perf_counter()
        await asyncio.sleep(self.delay_s)
        yield
        self.calls.append((came_at, time.perf_counter()))


@dataclass(frozen=True)
class Surroundings:
    emulators: Emulators
    ports: PortLeases
    idp: IdentityProvider
    client_key: EcKey
    edge_keys: dict[str, EcKey]
    google: google_identity.Signer
    google_jwks_uri: str
    metadata: dict[str, str]  # host:port by function
    platform: str  # origin
    bigquery: str  # origin
    folder: Path
    outside: Outside

    def google_identity(self, client_id: str, *, audience: str) -> str:
        """The ID token with which a front end or an agent on Google Cloud proves itself; good for an hour."""
        return self.google.id_token(_ACCOUNT.format(client_id), audience)

    async def open_project(self, name: str, *, people: int = 1, keeps_tokens: bool = False) -> Clients:
        """A project with its topic, its signing keys and the grants of so many people; the clients of the broker in it.

        `keeps_tokens`: they are of `SCOPES`, with what refresh_grants needs to narrow them; elsewhere a stand-in always has a token.
        """
        await asyncio.to_thread(_create_topic, name)
        await create_signing_keys(name)
        edge = self.edge_keys[name] = await _own_key(name, Issuer.EDGE)
        sts = await _own_key(name, Issuer.STS)
        await _connect(name, [person(self.idp.subject, number) for number in range(people)], keeps_tokens=keeps_tokens)
        return Clients(ORIGIN, self._resources, self.idp, edge, sts, self.client_key)

    async def log_in(self, project: str) -> None:
        """A browser session of the person, as a login leaves it. As if made in an hour: a click must come soon after its login."""
        now = datetime.now(UTC) + timedelta(hours=1)
        session = Session(
            tenant=TENANT,
            subject=self.idp.subject,
            idp_issuer=self.idp.issuer,
            groups=["sales"],
            auth_time=now,
            acr=None,
            amr=["pwd", "otp"],
            display_name="Alice Example",
            csrf=CSRF,
            expires_at=now + timedelta(hours=8),
        )
        documents = FirestoreDocuments(project, "approvals")
        try:
            await BrowserStates(documents).put(SESSION, session)
        finally:
            await documents.close()

    async def publisher(self, project: str, ask: Callable[[], Awaitable[object]], *, to: str) -> Publisher:
        """Delivers events such as the one that `ask` leaves in the project's topic, to the ingest_audit of project `to`."""
        data = await _event_of(project, ask)
        token = self.google.id_token(_ACCOUNT.format("push"), INGEST)
        return Publisher(read_json(data), SUBSCRIPTION.format(to), token)

    @property
    def _resources(self) -> dict[str, str]:
        return RESOURCES | {"crm": self.platform}

    def function(
        self,
        source: str,
        target: str,
        *,
        project: str,
        deployment: str = DEFAULT,
        exchange_token: str | None = None,
        refresh_grants: str | None = None,
    ) -> Function:
        """How to start a function in a project, with `deployment/DEPLOYMENT.yaml` as its broker.yaml, or one of `_CONNECTIONS`.
        `exchange_token` is the origin of the one that decides on calls, `refresh_grants` that of a real one.
        """
        metadata = self.metadata.get(target, self.metadata["exchange_token"])
        return Function(
            source,
            target,
            {
                **self.emulators.environment(),
                **self._variables(),
                "GOOGLE_CLOUD_PROJECT": project,
                "GCE_METADATA_HOST": metadata,
                "GCE_METADATA_IP": metadata,
                **(
                    {"CAB_EXCHANGE_TOKEN_URL": exchange_token, "CAB_CALL_CALLERS": _ACCOUNT.format("call-tool")}
                    if exchange_token
                    else {}
                ),
                "CAB_CONFIG_DIR": str(self._configuration(deployment)),
                "CAB_GOOGLE_ISSUER": _GOOGLE,
                "CAB_GOOGLE_JWKS_URI": self.google_jwks_uri,
                "CAB_REFRESH_GRANTS_URL": refresh_grants or self.idp.issuer,
                "CAB_TOKEN_CALLERS": _ACCOUNT.format("exchange-token"),
                "CAB_REVOKE_CALLERS": _ACCOUNT.format("operator"),
                "CAB_SWEEP_CALLERS": _ACCOUNT.format("scheduler"),
                "CAB_INGEST_AUDIT_URL": INGEST,
                "CAB_PUSH_ACCOUNT": _ACCOUNT.format("push"),
                "CAB_AUDIT_SUBSCRIPTION": SUBSCRIPTION.format(project),
                "BIGQUERY_EMULATOR_HOST": self.bigquery,
                "BENCH_EDGE_JWKS_URI": f"{self.idp.issuer}/edge/{project}/jwks.json",
                "BENCH_ACCESS_TOKEN": ACCESS_TOKEN,
                "BENCH_GRANT_ID": grant_id(TENANT, self.idp.subject, "crm"),
            },
        )

    @contextmanager
    def servers(self) -> Iterator[Callable[..., Server]]:
        """Gives a function that starts servers, which all end with the block."""
        with ExitStack() as stack:

            def start(function: Function, port: int | None = None) -> Server:
                server = Server(function, port or self.ports.take_free())
                stack.callback(server.stop)
                server.wait_until_it_answers()
                return server

            yield start

    def _variables(self) -> dict[str, str]:
        """What the configuration files refer to."""
        return {
            "CAB_ORIGIN": ORIGIN,
            "ACME_IDP_ORIGIN": self.idp.issuer,
            **{f"ACME_{name.upper()}_ORIGIN": resource for name, resource in self._resources.items()},
            "BENCH_FRONT_END_ACCOUNT": google_identity.unique_id(_ACCOUNT.format(FRONT_END)),
            "BENCH_AGENT_ACCOUNT": google_identity.unique_id(_ACCOUNT.format(AGENT)),
        }

    def _configuration(self, deployment: str) -> Path:
        """The demo organisation's own files, with our clients and one of our broker.yaml."""
        folder = self.folder / deployment
        if not folder.exists():
            folder.mkdir()
            for name in ("connections.yaml", "identity_providers.yaml"):
                shutil.copy(_EXAMPLE / name, folder)
            shutil.copytree(_EXAMPLE / "policies", folder / "policies")
            shutil.copy(_CONFIGURATION / "agents.yaml", folder)
            broker = DEFAULT if deployment in _CONNECTIONS else deployment
            shutil.copy(_CONFIGURATION / f"{broker}.yaml", folder / "broker.yaml")
            if deployment in _CONNECTIONS:
                path = folder / "connections.yaml"
                path.write_text(path.read_text("utf-8").replace(*_CONNECTIONS[deployment]), "utf-8")
        return folder


@asynccontextmanager
async def surroundings() -> AsyncIterator[Surroundings]:
    """Run them in this event loop and in one more process, until the block ends."""
    async with AsyncExitStack() as stack:
        emulators = stack.enter_context(running())
        os.environ.update(emulators.environment())  # for the adapters that fill them
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cab-bench-")))
        ports = stack.enter_context(PortLeases())
        signer = google_identity.Signer(_GOOGLE)
        others = ports.take_free()
        idp, client_key = IdentityProvider(f"http://{HOST}:{others}"), EcKey("client-1")
        edge_keys: dict[str, EcKey] = {}
        outside = Outside()

        async def serve(application: web.Application, port: int = 0) -> str:
            runner, bound = await loopback.serve(application, port)
            stack.push_async_callback(runner.cleanup)
            return f"{HOST}:{bound}"

        await serve(_other_services(idp, client_key, edge_keys), others)
        google_keys = await serve(google_identity.issuer_application(signer, frozenset()))
        metadata = {
            name: await serve(google_identity.metadata_application(signer, _ACCOUNT.format(name.replace("_", "-"))))
            for name in ("exchange_token", "call_tool")
        }
        platform = f"http://{await serve(_platform(outside))}"
        bigquery = f"http://{await serve(_bigquery(outside))}"
        keys_uri = f"http://{google_keys}/jwks"
        yield Surroundings(
            emulators,
            ports,
            idp,
            client_key,
            edge_keys,
            signer,
            keys_uri,
            metadata,
            platform,
            bigquery,
            folder,
            outside,
        )


def _other_services(idp: IdentityProvider, client_key: EcKey, edge_keys: dict[str, EcKey]) -> web.Application:
    """The IdP, the clients' keys, the edge's keys, and a refresh_grants that always has a token, on one port."""

    async def discovery(_: web.Request) -> web.Response:
        return web.json_response({"issuer": idp.issuer, "jwks_uri": f"{idp.issuer}/jwks.json"})

    async def idp_keys(_: web.Request) -> web.Response:
        return web.json_response(idp.key_set())

    async def client_keys(_: web.Request) -> web.Response:
        return web.json_response({"keys": [client_key.public_jwk()]})

    async def edge(request: web.Request) -> web.Response:
        return web.json_response({"keys": [edge_keys[request.match_info["project"]].public_jwk()]})

    async def access_token(request: web.Request) -> web.Response:
        asked, now = await request.json(), datetime.now(UTC)
        return web.json_response(
            {
                "access_token": ACCESS_TOKEN,
                "expires_at": (now + timedelta(hours=1)).isoformat(),
                "renew_at": (now + timedelta(minutes=56)).isoformat(),
                "works_until": (now + timedelta(hours=1)).isoformat(),
                "scopes": asked["scopes"],
                "narrowed": True,
                "grant_id": grant_id(TENANT, idp.subject, asked["connection"]),
                "seq": 1,
                "secret_version": 1,
                "outcome": "cached",
            }
        )

    application = web.Application()
    application.add_routes(
        [
            web.get("/.well-known/openid-configuration", discovery),
            web.get("/jwks.json", idp_keys),
            web.get("/clients/jwks.json", client_keys),
            web.get("/edge/{project}/jwks.json", edge),
            web.post("/grants/token", access_token),
        ]
    )
    return application


def _platform(outside: Outside) -> web.Application:
    """A CRM that answers at once, and after `PLATFORM_WAIT_S` where the account is `slow`. Its tokens outlive any run."""
    deals = [{"id": f"00{number}", "name": "Acme renewal", "amount_cents": 12_500_000} for number in range(5)]

    async def opportunities(request: web.Request) -> web.Response:
        async with outside.call():
            if request.query.get("account") == SLOW:
                await asyncio.sleep(PLATFORM_WAIT_S)
        return web.json_response({"opportunities": deals})

    async def token(request: web.Request) -> web.Response:
        form = await request.post()
        async with outside.call():
            pass
        answer = {
            "access_token": secrets.token_urlsafe(200),
            "expires_in": 86_400,
            "refresh_token": secrets.token_urlsafe(40),
        }
        return web.json_response(answer | {"token_type": "Bearer", "scope": form.get("scope", "")})

    application = web.Application()
    application.add_routes([web.get("/opportunities", opportunities), web.post("/oauth/token", token)])
    return application


def _bigquery(outside: Outside) -> web.Application:
    """Takes every row of a streaming insert, and keeps none."""

    async def insert(request: web.Request) -> web.Response:
        await request.read()
        async with outside.call():
            pass
        return web.json_response({"kind": "bigquery#tableDataInsertAllResponse"})

    application = web.Application(client_max_size=64 * 2**20)
    application.add_routes([web.post("/{path:.*}/insertAll", insert)])
    return application


async def _event_of(project: str, ask: Callable[[], Awaitable[object]]) -> bytes:
    """The message that `ask` leaves in the topic of the record."""
    topic = f"projects/{project}/topics/{AUDIT_TOPIC}"
    subscription = f"projects/{project}/subscriptions/once"
    with grpc.insecure_channel(os.environ["PUBSUB_EMULATOR_HOST"]) as channel:
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        await asyncio.to_thread(subscriber.create_subscription, name=subscription, topic=topic, timeout=10)
        try:
            await ask()
            pulled = await asyncio.to_thread(subscriber.pull, subscription=subscription, max_messages=1, timeout=10)
            return bytes(pulled.received_messages[0].message.data)
        finally:
            await asyncio.to_thread(subscriber.delete_subscription, subscription=subscription, timeout=10)


def _create_topic(project: str) -> None:
    with grpc.insecure_channel(os.environ["PUBSUB_EMULATOR_HOST"]) as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        publisher.create_topic(name=f"projects/{project}/topics/{AUDIT_TOPIC}", timeout=10)


async def _own_key(project: str, issuer: Issuer) -> EcKey:
    """A signing key of the broker, so that the agents' tokens need not be minted one by one."""
    documents, vault = FirestoreDocuments(project, "keys"), SecretManagerVault(project)
    try:
        ring = await SigningKeys(documents).ring(issuer)
        active = ring.active if ring else None
        if active is None:
            raise LookupError("the project has no signing key")
        private = strict_json.load_object(await vault.access(SECRET[issuer], active.secret_version))
    finally:
        await documents.close()
        await vault.close()
    return EcKey(active.kid, private_key(private))


async def _connect(project: str, subjects: Iterable[str], *, keeps_tokens: bool) -> None:
    """People's grants at the CRM."""
    now = datetime.now(UTC)
    scopes = SCOPES if keeps_tokens else ("opportunity.read", "opportunity.write", "opportunity.delete")
    grants = [_grant(subject, scopes, now) for subject in subjects]
    documents, vault = FirestoreDocuments(project, "grants"), SecretManagerVault(project)
    try:
        if keeps_tokens:
            await store_secrets(project, {"cab-provider-crm": "crm-secret", ESCROW_SECRET: "k" * 32})
            payloads = GrantPayloads(vault)

            async def keep(grant: Grant) -> None:
                await payloads.create(grant)
                await payloads.add(grant, _payload(grant))

            await asyncio.gather(*(keep(grant) for grant in grants))
        await asyncio.gather(*(Grants(documents).create(grant) for grant in grants))
    finally:
        await documents.close()
        await vault.close()


def _payload(grant: Grant) -> bytes:
    """What the consent brought."""
    answer = {"access_token": "wide", "expires_in": 86_400, "refresh_token": f"first-{grant.grant_id}"}
    return (
        TokenSet(
            grant_id=grant.grant_id,
            tenant=grant.tenant,
            user_key=grant.subject,
            seq=1,
            attempt_id="connect",
            fence=0,
            predecessor_sha256=None,
            received_at=grant.connected_at,
            status=200,
            response=b64encode(json.dumps(answer).encode()).decode(),
            requested_scopes=grant.scopes,
            carried_refresh_token=None,
        )
        .model_dump_json()
        .encode()
    )


def _grant(subject: str, scopes: Sequence[str], now: datetime) -> Grant:
    return Grant(
        grant_id=grant_id(TENANT, subject, "crm"),
        tenant=TENANT,
        subject=subject,
        connection="crm",
        provider="acme-crm",
        provider_class=RotationClass.STRICT,
        access_expires_at=now + timedelta(hours=1),
        refreshed_at=now,
        scopes=list(scopes),
        connected_at=now,
    )

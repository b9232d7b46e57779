"""Everything the functions talk to, on this machine: embedded emulators, Google's identities, an IdP, refresh_grants.

None of it runs on the servers' core, and none of its CPU is counted. Each measured function has a project of its own, so
that the emulators' call log tells whose calls are whose.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from aiohttp import web
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

from benchmarks.clients import AGENT, FRONT_END, TENANT, Clients, EcKey, IdentityProvider, person
from benchmarks.processes import HOST, ROOT, Function, Server
from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant, grant_id
from cab.encoding import strict_json
from cab.protocol.jose.jwk import ALGORITHMS
from cab.stores.grants import Grants
from cab.stores.signing_keys import SECRET, Issuer, SigningKeys
from cab_dev import loopback
from cab_dev.local_cloud import AUDIT_TOPIC, create_signing_keys
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
_GOOGLE = "https://accounts.google.com"
_ACCOUNT = "{}@demo-bench.iam.gserviceaccount.com"
_EXAMPLE = ROOT / "examples" / "acme"
_CONFIGURATION = ROOT / "benchmarks" / "deployment"


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
    folder: Path

    def google_identity(self, client_id: str, *, audience: str) -> str:
        """The ID token with which a front end or an agent on Google Cloud proves itself; good for an hour."""
        return self.google.id_token(_ACCOUNT.format(client_id), audience)

    async def open_project(self, name: str, *, people: int = 1) -> Clients:
        """A project with its topic, its signing keys and the grants of so many people; the clients of the broker in it."""
        await asyncio.to_thread(_create_topic, name)
        await create_signing_keys(name)
        edge = self.edge_keys[name] = await _own_key(name, Issuer.EDGE)
        sts = await _own_key(name, Issuer.STS)
        await _connect(name, [person(self.idp.subject, number) for number in range(people)])
        return Clients(ORIGIN, self._resources, self.idp, edge, sts, self.client_key)

    @property
    def _resources(self) -> dict[str, str]:
        return RESOURCES | {"crm": self.platform}

    def function(
        self, source: str, target: str, *, project: str, deployment: str = "default", exchange_token: str | None = None
    ) -> Function:
        """How to start a function in a project, with `deployment/DEPLOYMENT.yaml` as its broker.yaml. `exchange_token` is the
        origin of the one that decides on calls.
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
                "CAB_REFRESH_GRANTS_URL": self.idp.issuer,
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
        """The demo organisation's own files, with our clients and one of our two broker.yaml."""
        folder = self.folder / deployment
        if not folder.exists():
            folder.mkdir()
            for name in ("connections.yaml", "identity_providers.yaml"):
                shutil.copy(_EXAMPLE / name, folder)
            shutil.copytree(_EXAMPLE / "policies", folder / "policies")
            shutil.copy(_CONFIGURATION / "agents.yaml", folder)
            shutil.copy(_CONFIGURATION / f"{deployment}.yaml", folder / "broker.yaml")
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
        platform = f"http://{await serve(_platform())}"
        keys_uri = f"http://{google_keys}/jwks"
        yield Surroundings(emulators, ports, idp, client_key, edge_keys, signer, keys_uri, metadata, platform, folder)


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
        asked = await request.json()
        return web.json_response(
            {
                "access_token": ACCESS_TOKEN,
                "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
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


def _platform() -> web.Application:
    """A CRM that answers at once, and after `PLATFORM_WAIT_S` where the account is `slow`."""
    deals = [{"id": f"00{number}", "name": "Acme renewal", "amount_cents": 12_500_000} for number in range(5)]

    async def opportunities(request: web.Request) -> web.Response:
        if request.query.get("account") == SLOW:
            await asyncio.sleep(PLATFORM_WAIT_S)
        return web.json_response({"opportunities": deals})

    application = web.Application()
    application.add_routes([web.get("/opportunities", opportunities)])
    return application


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
    return EcKey(active.kid, ALGORITHMS["ES256"].from_jwk(private))


async def _connect(project: str, subjects: Iterable[str]) -> None:
    """People's grants at the CRM."""
    now = datetime.now(UTC)
    documents = FirestoreDocuments(project, "grants")
    try:
        await asyncio.gather(*(Grants(documents).create(_grant(subject, now)) for subject in subjects))
    finally:
        await documents.close()


def _grant(subject: str, now: datetime) -> Grant:
    return Grant(
        grant_id=grant_id(TENANT, subject, "crm"),
        tenant=TENANT,
        subject=subject,
        connection="crm",
        provider="acme-crm",
        provider_class=RotationClass.STRICT,
        access_expires_at=now + timedelta(hours=1),
        refreshed_at=now,
        scopes=["opportunity.read", "opportunity.write"],
        connected_at=now,
    )

"""A place where processes die: emulated stores and providers that outlive them, workers to kill, and the truth to compare with."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from tests.grants.processes.provider import CALLBACK, PROVIDERS

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant, GrantStatus, grant_id
from cab.ports import NotFound
from cab.stores.grant_payloads import secret_id
from cab.stores.grants import Grants
from cab.use_cases.audit.packing import unpack
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET
from cab_dev.doubles.oauth_provider import s256
from cab_dev.doubles.oauth_provider.token_book import TokenBook, token_sha256
from cab_dev.processes.ports import PortLeases
from gcp_emulators import Emulators, running

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PROJECT = "demo-kill"
AUDIT_TOPIC = f"projects/{PROJECT}/topics/cab-audit"
AUDIT_SUBSCRIPTION = f"projects/{PROJECT}/subscriptions/audit-keep"
VERIFIER = "v" * 43
START_WITHIN_S = 60.0
END_STATES = (GrantStatus.ACTIVE, GrantStatus.NEEDS_REAUTH, GrantStatus.REVOKED)


@dataclass
class Worker:
    """A forked process of refresh_grants. `catch_up` waits until all that processes have said is in `lines`."""

    pid: int
    catch_up: Callable[[], None]
    lines: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def result(self, *, within_s: float = 30) -> dict[str, Any] | None:
        """What the process said at its end, or None when it died before."""
        give_up_at = time.monotonic() + within_s
        while self.lines.empty() and self.is_alive() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        self.catch_up()
        found: dict[str, Any] | None = None if self.lines.empty() else self.lines.get_nowait()["result"]
        return found

    def is_alive(self) -> bool:
        return Path(f"/proc/{self.pid}").exists() and self.state() != "Z"

    def is_stopped(self) -> bool:
        return self.state() == "T"

    def state(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "gone"

    def _signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return


@dataclass
class Site:
    emulators: Emulators
    folder: Path
    ports: dict[str, int]
    environment: dict[str, str]
    _zygote: subprocess.Popen[str]
    _workers: dict[int, Worker] = field(default_factory=dict)
    _pending: dict[int, queue.Queue[Worker]] = field(default_factory=dict)
    _echoes: dict[int, threading.Event] = field(default_factory=dict)
    _events: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    _number: int = 0

    def __post_init__(self) -> None:
        self.books = {
            name: TokenBook(profile, time.time, database=str(self.folder / f"{name}.db"))
            for name, profile in PROVIDERS.items()
        }
        threading.Thread(target=self._read_lines, daemon=True).start()

    # --- processes ---

    def start(self, work: str, **members: Any) -> Worker:
        self._number += 1
        number = self._number
        started = self._pending[number] = queue.Queue()
        self._command(id=number, work=work, **members)
        return started.get(timeout=START_WITHIN_S)

    def _catch_up(self) -> None:
        self._number += 1
        echoed = self._echoes[self._number] = threading.Event()
        self._command(id=self._number, work="echo")
        assert echoed.wait(START_WITHIN_S)

    def _command(self, **members: Any) -> None:
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(members) + "\n")
        self._zygote.stdin.flush()

    def ask(self, grant: Connected, **members: Any) -> Worker:
        return self.start("ask", name=grant.name, connection=grant.kind, **members)

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        sweeper = self.start("sweep")
        try:
            yield
        finally:
            sweeper.kill()

    def _read_lines(self) -> None:
        assert self._zygote.stdout is not None
        early: dict[int, list[dict[str, Any]]] = {}
        for line in self._zygote.stdout:
            message = json.loads(line)
            if "echo" in message:
                self._echoes.pop(message["echo"]).set()
                continue
            number = message["id"]
            if "pid" in message:
                worker = self._workers[number] = Worker(message["pid"], self._catch_up)
                for waiting in early.pop(number, []):
                    worker.lines.put(waiting)
                self._pending.pop(number).put(worker)
            elif number in self._workers:
                self._workers[number].lines.put(message)
            else:
                early.setdefault(number, []).append(message)

    # --- grants ---

    def connect(self, kinds: list[str], *, user: str) -> list[Connected]:
        """One grant for each kind of provider named, all of different users; their access tokens have expired."""
        connected: list[Connected] = self._with_stores(
            self._connect_all, [(kind, f"{user}-{n}") for n, kind in enumerate(kinds)]
        )
        return connected

    async def _connect_all(
        self, store: Grants, vault: SecretManagerVault, wanted: list[tuple[str, str]]
    ) -> list[Connected]:
        return list(await asyncio.gather(*(self._connect(store, vault, kind, user) for kind, user in wanted)))

    async def _connect(self, store: Grants, vault: SecretManagerVault, kind: str, user: str) -> Connected:
        profile, book = PROVIDERS[kind], self.books[kind]
        scopes = ("read", "write", *([profile.offline_scope] if profile.offline_scope else []))
        code = book.issue_code(
            client_id="cab", account="double-1001", redirect_uri=CALLBACK, scopes=scopes, challenge=s256(VERIFIER)
        )
        tokens = book.redeem_code(code, client_id="cab", redirect_uri=CALLBACK, verifier=VERIFIER)
        grant = Grant(
            grant_id=grant_id("acme", user, kind),
            tenant="acme",
            subject=user,
            connection=kind,
            provider=f"double-{kind}",
            provider_class=RotationClass(profile.refresh_class.value.removesuffix("_family")),
            leeway_s=profile.leeway_s,
            scopes=list(scopes),
            connected_at=datetime.now(UTC),
        )
        answer = {"access_token": tokens.access_token, "refresh_token": tokens.refresh_token, "expires_in": 1}
        payload = {
            "grant_id": grant.grant_id,
            "tenant": "acme",
            "user_key": user,
            "seq": 1,
            "attempt_id": "connect",
            "fence": 0,
            "predecessor_sha256": None,
            "received_at": (datetime.now(UTC) - timedelta(hours=1)).isoformat(),
            "status": 200,
            "response": b64encode(json.dumps(answer).encode()).decode(),
            "requested_scopes": list(scopes),
            "carried_refresh_token": None,
        }
        await vault.create(secret_id(grant.grant_id))
        await vault.add(secret_id(grant.grant_id), json.dumps(payload).encode())
        assert await store.create(grant) is not None
        assert tokens.refresh_token is not None
        return Connected(kind, grant.grant_id, tokens.grant_id, token_sha256(tokens.refresh_token))

    def truths(self, connected: list[Connected]) -> list[Truth]:
        truths: list[Truth] = self._with_stores(self._truths, connected)
        return truths

    async def _truths(self, store: Grants, vault: SecretManagerVault, connected: list[Connected]) -> list[Truth]:
        return list(await asyncio.gather(*(self._truth(store, vault, item) for item in connected)))

    async def _truth(self, store: Grants, vault: SecretManagerVault, item: Connected) -> Truth:
        stored = await store.read(item.name)
        assert stored is not None
        tokens: dict[int, str | None] = {}
        for version in range(1, stored.grant.secret_version + 6):
            try:
                tokens[version] = _refresh_token(await vault.access(secret_id(item.name), version))
            except NotFound:
                continue
        book = self.books[item.kind]
        states = {token: book.token_state(token) for token in tokens.values() if token is not None}
        live = {token for token, state in states.items() if state is not None and state["state"] == "live"}
        return Truth(item, stored.grant, tokens, live, book.ledger(grant_id=item.at_provider))

    def settled(self, connected: list[Connected], *, within_s: float = 90) -> list[Truth]:
        """The truth about each grant once all are in an end state. Raises: AssertionError when that takes too long."""
        give_up_at = time.monotonic() + within_s
        while True:
            truths = self.truths(connected)
            open_ones = [truth for truth in truths if not truth.is_settled]
            if not open_ones:
                return truths
            states = [f"{truth.item.kind} {truth.grant.status.value} {truth.grant.fail_cause}" for truth in open_ones]
            assert time.monotonic() < give_up_at, f"no end state: {states[:5]}"
            time.sleep(0.2)

    def audit_events(self) -> dict[tuple[str, str], set[str]]:
        """Ids of all audit events so far, by grant and type."""
        for event in map(json.loads, chain.from_iterable(map(unpack, _pull_all(self.emulators.address("pubsub"))))):
            if event.get("grant"):
                self._events.setdefault((event["grant"]["id"], event["event_type"]), set()).add(event["event_id"])
        return self._events

    def _kill_workers(self) -> None:
        for worker in self._workers.values():
            if worker.is_alive():
                worker.kill()

    def _with_stores(self, work: Any, *arguments: Any) -> Any:
        async def run() -> Any:
            documents, vault = FirestoreDocuments(PROJECT, "grants"), SecretManagerVault(PROJECT)
            try:
                return await work(Grants(documents), vault, *arguments)
            finally:
                await documents.close()
                await vault.close()

        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            return asyncio.run(run())
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@dataclass(frozen=True)
class Connected:
    kind: str
    name: str
    at_provider: str
    first_token: str  # digest of the refresh token of the consent


@dataclass(frozen=True)
class Truth:
    """What our stores say of a grant, and what its provider says."""

    item: Connected
    grant: Grant
    tokens: dict[int, str | None]  # digests of the refresh tokens that are stored, by version
    live: set[str]  # of these, the ones that the provider takes, now and when every leeway is over
    ledger: list[dict[str, Any]]

    @property
    def is_settled(self) -> bool:
        """ACTIVE under suspicion is no end: nothing is served until the sweeper has had the tokens tried."""
        grant = self.grant
        is_suspect = grant.status is GrantStatus.ACTIVE and grant.suspect_since is not None
        return grant.status in END_STATES and not grant.outbox and grant.attempt_id is None and not is_suspect

    @property
    def refreshes(self) -> int:
        return sum(entry["event"] == "refreshed" for entry in self.ledger)

    @property
    def is_alive(self) -> bool:
        """ACTIVE, with a refresh token that works."""
        return self.grant.status is GrantStatus.ACTIVE and self.tokens.get(self.grant.secret_version) in self.live

    @property
    def is_silently_dead(self) -> bool:
        return self.grant.status is GrantStatus.ACTIVE and not self.is_alive

    @property
    def is_lost(self) -> bool:
        return self.grant.status is GrantStatus.NEEDS_REAUTH

    @property
    def was_lost_in_the_window(self) -> bool:
        """The provider has rotated, and what it answered is nowhere: no version holds a successor of the first token."""
        return self.refreshes > 0 and set(self.tokens.values()) == {self.item.first_token}


def _refresh_token(raw: bytes) -> str | None:
    payload = json.loads(raw)
    try:
        answer = json.loads(b64decode(payload["response"]))
    except ValueError:
        return None
    token = answer.get("refresh_token") or payload["carried_refresh_token"]
    return None if token is None else token_sha256(token)


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Everything up, until the block ends. Workers and helpers are ended by their process ids."""
    with ExitStack() as stack:
        emulators = stack.enter_context(running(services=("firestore", "secret_manager", "pubsub")))
        leases = stack.enter_context(PortLeases())
        ports = {name: leases.take_free() for name in PROVIDERS}
        configuration = folder / "configuration"
        _write_configuration(configuration, ports)
        environment = emulators.environment() | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shared")]),
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "CAB_CONFIG_DIR": str(configuration),
            "CAB_REFRESH_GRANTS_URL": "http://127.0.0.1:1",
            "CAB_TOKEN_CALLERS": "t@demo-kill.iam.gserviceaccount.com",
            "CAB_REVOKE_CALLERS": "t@demo-kill.iam.gserviceaccount.com",
            "CAB_SWEEP_CALLERS": "t@demo-kill.iam.gserviceaccount.com",
        }
        _create_audit_topic(emulators.address("pubsub"))
        named_ports = [f"{name}={port}" for name, port in ports.items()]
        provider = _start([str(HERE / "provider.py"), str(folder), *named_ports], environment)
        stack.callback(_end, provider)
        for port in ports.values():
            _wait_for(port)
        zygote = _start([str(HERE / "worker.py")], environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(_end, zygote)
        assert zygote.stdout is not None
        assert zygote.stdout.readline() == '{"ready": true}\n', "the workers cannot start"
        site = Site(emulators, folder, ports, environment, zygote)
        stack.callback(site._kill_workers)
        site._with_stores(_make_escrow_key)
        yield site


async def _make_escrow_key(_: Grants, vault: SecretManagerVault) -> None:
    await vault.create(ESCROW_SECRET)
    await vault.add(ESCROW_SECRET, os.urandom(32))


def _start(command: list[str], environment: dict[str, str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *command], env=os.environ | environment, text=True, cwd=ROOT, **options)


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _wait_for(port: int) -> None:
    import http.client

    give_up_at = time.monotonic() + START_WITHIN_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            assert time.monotonic() < give_up_at, "the provider double did not start"
            time.sleep(0.05)
        finally:
            connection.close()


def _create_audit_topic(address: str) -> None:
    import grpc
    from google.pubsub_v1 import PublisherClient, SubscriberClient
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    with grpc.insecure_channel(address) as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        publisher.create_topic(name=AUDIT_TOPIC, retry=None, timeout=20)
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        request = {"name": AUDIT_SUBSCRIPTION, "topic": AUDIT_TOPIC, "ack_deadline_seconds": 60}
        subscriber.create_subscription(request=request, retry=None, timeout=20)


def _pull_all(address: str) -> Iterator[bytes]:
    import grpc
    from google.pubsub_v1 import SubscriberClient
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    with grpc.insecure_channel(address) as channel:
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        while True:
            request = {"subscription": AUDIT_SUBSCRIPTION, "max_messages": 1000, "return_immediately": True}
            received = subscriber.pull(request=request, retry=None, timeout=20).received_messages
            if not received:
                return
            yield from (item.message.data for item in received)
            subscriber.acknowledge(
                subscription=AUDIT_SUBSCRIPTION, ack_ids=[item.ack_id for item in received], retry=None, timeout=20
            )


def _write_configuration(folder: Path, ports: dict[str, int]) -> None:
    from tests.grants.grant_world import provider_of

    providers: list[dict[str, Any]] = []
    connections: list[dict[str, Any]] = []
    for kind, port in ports.items():
        provider = provider_of(PROVIDERS[kind], id=f"double-{kind}", issuer_of_double=f"http://127.0.0.1:{port}")
        providers.append(provider.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True))
        actions = [
            {"id": f"{kind}.thing.{name}", "title": name, "effect": name, "scopes": [name], "identifier": "thing/{id}"}
            for name in ("read", "write")
        ]
        connections.append(
            {
                "id": kind,
                "title": kind,
                "provider": f"double-{kind}",
                "resource": f"http://127.0.0.1:{port}",
                "tenants": ["acme"],
                "client_id": "cab",
                "allow_unnarrowed": provider.narrowing == "none",
                "actions": actions,
            }
        )
    idp = {
        "issuer": "http://127.0.0.1:1",
        "tenant": "acme",
        "jwks_uri": "http://127.0.0.1:1/jwks",
        "login": {"client_id": "cab", "client_secret": {"secret": "idp"}},
    }
    files = {
        "broker.yaml": {
            "origin": "http://127.0.0.1:8080",
            "allow_loopback_http": True,
            "tenants": [{"id": "acme", "title": "Acme"}],
        },
        "connections.yaml": {"providers": providers, "connections": connections},
        "identity_providers.yaml": {"identity_providers": [idp]},
        "agents.yaml": {"front_ends": [], "agents": []},
        "policies/all.cedar": "permit (principal, action, resource);",
    }
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), "utf-8")

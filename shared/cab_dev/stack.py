"""CAB's local stack as a table for the supervisor: emulators, the seven functions, the gateway, and the organisation around them.

The organisation (identity provider, downstream systems, people) comes from `stack.py` in the configuration folder; a
folder without one is surrounded by the demo organisation of examples/acme, with one identity provider for each variable
`NAME_IDP_ORIGIN` that the folder declares.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.configuration.problems import ConfigurationRefused
from cab.adapters.configuration.variables import BROKER_FILE, declared_variables
from cab.adapters.configuration.yaml_tree import read_yaml
from cab.domain.configured.clients import Agent, ClientSecret, FrontEnd, PrivateKeyJwt
from cab.domain.configured.deployment import Deployment
from cab_dev import control, local_cloud, permissions, stack_file
from cab_dev.client_keys import write_client_key
from cab_dev.local_cloud import PushTarget
from cab_dev.processes.ports import PortLeases, PortTaken
from cab_dev.processes.progress import Progress
from cab_dev.processes.supervisor import Part, Service, StartFailed, Step, Supervisor, inherited_environment
from cab_dev.services import audit_dataset, bigquery, gateway
from cab_dev.stack_file import (
    AuditEntry,
    ClientEntry,
    ConnectionEntry,
    EmulatorEntry,
    FrontEndEntry,
    IdpEntry,
    ServiceEntry,
    StackFile,
    write_private,
)
from cab_ops.rotate_keys import new_private_jwk
from gcp_emulators.official import NotInstalled, official_emulator
from gcp_emulators.permissions.table import used_file

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "demo-cab"
FUNCTIONS = (
    "mint_assertion",
    "exchange_token",
    "publish_metadata",
    "refresh_grants",
    "connect_account",
    "call_tool",
    "ingest_audit",
)
DOCTOR = "doctor"  # the identity of the scheduled `cab doctor`: nothing here schedules it, but whoever tries it is that identity
DEFAULT_GATEWAY_PORT = 8080
AUDIT_DATASET = "cab_audit"
_OF_TRACES = ("CAB_TRACE_RATIO", "CAB_TRACE_ENDPOINT")  # where they go, see docs/deploying.md
SWEEP_EVERY_S = 10
RIGHTS_NAME = "rights.json"
INSTANCES_NAME = "instances.json"

CALLED_FUNCTIONS = ("exchange_token", "refresh_grants", "ingest_audit")
"""Functions that other services call at their own URL, not through the load balancer."""

EmulatorKind = Literal["embedded", "official"]


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """`port` is the gateway's, 0 for a free one. `connect`: whether the organisation's people connect their accounts.

    `bigquery`: whether audit rows go there, where it is available; otherwise they are lines of a file.

    `python` is what the functions run on: of an environment in which `requirements/call_tool.txt` is installed.

    `stop_at_end_of_input`: stop also when standard input, a pipe, is closed, as happens when the program that started
    the stack ends in any way.
    """

    config_dir: Path = ROOT / "examples" / "acme"
    state_dir: Path = stack_file.DEFAULT_STATE_DIR
    port: int = DEFAULT_GATEWAY_PORT
    emulators: EmulatorKind = "embedded"
    connect: bool = True
    bigquery: bool = True
    python: Path = Path(sys.executable)
    stop_at_end_of_input: bool = False


@dataclass(frozen=True, kw_only=True)
class OrganisationProbe:
    """`user` and `agent` by name; `intent` as in a probe file of `cab doctor`."""

    user: str
    agent: str
    intent: Mapping[str, Any]


class Organisation(Protocol):
    """What `stack.py` of a configuration folder brings: the world around the broker. Built by its function `organisation`."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Values for `${NAME}` in the folder's files, beside those of the broker itself."""

    @property
    def ports(self) -> Mapping[str, int]:
        """Service name to port."""

    @property
    def accounts(self) -> Collection[str]:
        """Service accounts of its own, e.g. of agents that run on the platform: the local Google signs for them too."""

    def prepare(self, deployment: Deployment, *, secrets: Mapping[str, str], folder: Path) -> None:
        """Write what the services read, into a private folder. `secrets`: Secret Manager's ids to values."""

    def services(
        self, *, origin: str, environment: Mapping[str, str], folder: Path, keys: Path
    ) -> tuple[Service, ...]: ...

    @property
    def probe(self) -> OrganisationProbe | None:
        """An exchange that succeeds once people have connected: for `cab doctor`."""

    def connect(self, origin: str) -> str:
        """Play the people who connect their accounts. Returns a few words. Blocking."""


def account(name: str) -> str:
    """Service account of a function or job, given its Python name."""
    return f"{name.replace('_', '-')}@{PROJECT}.iam.gserviceaccount.com"


def load_organisation(config_dir: Path, take_port: Callable[[int], int]) -> Organisation:
    """The organisation around the broker. `take_port` leases a preferred port or, when taken, another one."""
    own = config_dir / "stack.py"
    path = own if own.is_file() else ROOT / "examples" / "acme" / "stack.py"
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    spec = importlib.util.spec_from_file_location("cab_stack_organisation", path)
    if spec is None or spec.loader is None:
        raise StartFailed(f"{path} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if own.is_file():
        organisation: Organisation = module.organisation(take_port)
        return organisation
    surrounding: Organisation = module.organisation(take_port, _declared_variables(config_dir))
    return surrounding


def _declared_variables(config_dir: Path) -> tuple[str, ...]:
    """What the folder's broker.yaml lists; nothing when it cannot be read, which is told when the configuration is loaded."""
    tree, _ = read_yaml(BROKER_FILE, (config_dir / BROKER_FILE).read_bytes())
    return () if tree is None else declared_variables(tree)


@dataclass
class Stack:
    """The ports, names and parts of one stack. Nothing runs yet."""

    options: StackOptions
    leases: PortLeases
    with_bigquery: bool
    deployment: Deployment | None = None
    _secrets: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            gateway_port = self.leases.take(self.options.port) if self.options.port else self.leases.take_free()
        except PortTaken as exc:
            raise StartFailed(
                f"Port {exc.port} is taken: stop what listens there, or choose another with --port (0 for any free one)."
            ) from exc
        self.state = self.options.state_dir.resolve()
        self.config_dir = self.options.config_dir.resolve()
        if not (self.config_dir / "broker.yaml").is_file():
            raise StartFailed(
                f"{self.options.config_dir} holds no broker.yaml: name a configuration folder with --config."
            )
        self.origin = f"http://127.0.0.1:{gateway_port}"
        take = self.leases.take_free
        self.organisation = load_organisation(self.config_dir, take)
        names = ("firestore", "pubsub", "secret_manager", "bigquery", "google_identity", "push_proxy", *FUNCTIONS)
        self.ports = {"gateway": gateway_port, **{name: take() for name in names}, **self.organisation.ports}
        self.control_ports = {name: take() for name in ("firestore", "pubsub", "secret_manager")}
        self.metadata_ports = {name: take() for name in (*FUNCTIONS, DOCTOR, "operator")}
        # The emulators know their callers by port; functions that others call have a door in front (services/doors.py).
        self.caller_ports = {service: {name: take() for name in (*FUNCTIONS, DOCTOR)} for service in self._enforcing}
        self.doors = {name: take() for name in CALLED_FUNCTIONS}
        self.bigquery_door = take()

    # --- addresses ---

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    @property
    def _bigquery_data(self) -> Path:
        return self.state / "data" / "bigquery"

    @property
    def bigquery_url(self) -> str | None:
        return self.url("bigquery") if self.with_bigquery else None

    def called_at(self, function: str) -> str:
        """The URL at which other services call a function, where it is asked whether they may."""
        return f"http://127.0.0.1:{self.doors[function]}"

    @property
    def _enforcing(self) -> tuple[str, ...]:
        """The emulators that look at permissions: ours."""
        return (
            ("firestore", "pubsub", "secret_manager") if self.options.emulators == "embedded" else ("secret_manager",)
        )

    @property
    def rights_file(self) -> Path:
        """Who may do what: read again when it changes."""
        return self.state / RIGHTS_NAME

    def write_rights(self) -> None:
        """Give everybody what Terraform gives them."""
        write_private(self.rights_file, json.dumps(permissions.rows_for(PROJECT)))

    def _emulators_of(self, function: str) -> dict[str, str]:
        """Where a function finds the emulators that know it. BigQuery is for ingest_audit: nobody else is told of it."""
        addresses = {
            f"{service.upper()}_EMULATOR_HOST": f"127.0.0.1:{ports[function]}"
            for service, ports in self.caller_ports.items()
        }
        if self.bigquery_url:
            own = f"http://127.0.0.1:{self.bigquery_door}" if function == "ingest_audit" else ""
            addresses["BIGQUERY_EMULATOR_HOST"] = own
        return addresses

    def _emulator_variables(self) -> dict[str, str]:
        variables = {
            "FIRESTORE_EMULATOR_HOST": self.address("firestore"),
            "PUBSUB_EMULATOR_HOST": self.address("pubsub"),
            "SECRET_MANAGER_EMULATOR_HOST": self.address("secret_manager"),
            "GOOGLE_CLOUD_PROJECT": PROJECT,
        }
        if self.bigquery_url:
            variables["BIGQUERY_EMULATOR_HOST"] = self.bigquery_url
        return variables

    def _configuration_variables(self) -> dict[str, str]:
        """What `${NAME}` may stand for in the folder's files."""
        return {
            **{name: value for name, value in os.environ.items() if name in _declared_variables(self.config_dir)},
            "CAB_ORIGIN": self.origin,
            "CAB_GOOGLE_ISSUER": self.url("google_identity"),
            "CAB_GOOGLE_JWKS_URI": f"{self.url('google_identity')}/jwks",
            **self.organisation.variables,
        }

    def _environment(self, name: str) -> dict[str, str]:
        """Common to all processes, with a home folder of its own."""
        return {
            **inherited_environment(),
            **{name: os.environ[name] for name in _OF_TRACES if name in os.environ},
            "HOME": str(self.state / "home" / name),
            "PYTHONPATH": os.pathsep.join((str(ROOT / "shared"), str(ROOT))),
            "PYTHONUNBUFFERED": "1",
        }

    def client_environment(self) -> dict[str, str]:
        """Leads Google's clients, and the configuration loader, to this stack."""
        return {
            **self._emulator_variables(),
            **self._configuration_variables(),
            "CAB_CONFIG_DIR": str(self.config_dir),
        }

    def operator_environment(self) -> dict[str, str]:
        """Leads the commands of `cab` here, those too that ask refresh_grants as somebody who may revoke."""
        metadata = self._metadata_address("operator")
        return {
            **self.client_environment(),
            "CAB_REFRESH_GRANTS_URL": self.called_at("refresh_grants"),
            "GCE_METADATA_HOST": metadata,
            "GCE_METADATA_IP": metadata,
            **({"CAB_PROBE_FILE": str(self._probe_file)} if self._probe_file.is_file() else {}),
        }

    def doctor_environment(self) -> dict[str, str]:
        """The same for the scheduled doctor, who may look and change nothing. BigQuery asks nobody here."""
        metadata = self._metadata_address(DOCTOR)
        own = {name: value for name, value in self._emulators_of(DOCTOR).items() if value}
        return {**self.client_environment(), **own, "GCE_METADATA_HOST": metadata, "GCE_METADATA_IP": metadata}

    @property
    def _probe_file(self) -> Path:
        return self.state / "organisation" / "probe.json"

    def _write_probe(self, deployment: Deployment) -> None:
        """What `cab doctor` tries: an exchange of somebody who connects at the start."""
        probe, front_end = self.organisation.probe, deployment.front_ends[0].client_id
        if probe is None or probe.agent not in deployment.agent_by_id or not self.options.connect:
            return
        python_path = self._environment("doctor")["PYTHONPATH"]
        document = {
            "front_end": {"client_id": front_end, "private_key_file": str(self._keys / f"{front_end}.json")},
            "agent": {"client_id": probe.agent, "private_key_file": str(self._keys / f"{probe.agent}.json")},
            "id_token_command": [
                *("env", f"PYTHONPATH={python_path}", sys.executable, "-m", "cab_ops.cli", "dev", "id-token"),
                *("--user", probe.user, "--state-dir", str(self.state)),
            ],
            "intent": dict(probe.intent),
        }
        write_private(self._probe_file, json.dumps(document, indent=2) + "\n")

    def _metadata_address(self, name: str) -> str:
        return f"127.0.0.1:{self.metadata_ports[name]}"

    # --- the table ---

    def parts(self) -> list[Part]:
        parts: list[Part] = [
            Step(name="configuration", run=self._prepare_configuration),
            self._google_identity(),
            *self._emulators(),
            *([self._bigquery()] if self.with_bigquery else []),
            *self._filling(),
            *(self._function(name) for name in FUNCTIONS),
            self._gateway(),
            self._scheduler(),
        ]
        parts += self.organisation.services(
            origin=self.origin,
            environment=self._environment("organisation"),
            folder=self.state / "organisation",
            keys=self._keys,
        )
        if self.options.connect:
            others = tuple(part.name for part in parts if part.name != "scheduler")
            parts.append(Step(name="connect", run=self._connect, needs=others))
        return parts

    @property
    def _keys(self) -> Path:
        return self.state / "keys"

    def _python(
        self, name: str, module: str, *arguments: str, ready: str | None = "/health", **options: Any
    ) -> Service:
        """A service that is a Python module and listens on its port."""
        return Service(
            name=name,
            command=(sys.executable, "-m", module, *arguments),
            environment=self._environment(name),
            directory=ROOT,
            port=self.ports[name],
            ready=f"{self.url(name)}{ready}" if ready else f"tcp://{self.address(name)}",
            url=self.url(name),
            **options,
        )

    def _google_identity(self) -> Service:
        accounts: dict[str, int | None] = {account(name): port for name, port in self.metadata_ports.items()}
        accounts |= dict.fromkeys((account("pubsub_push"), account("scheduler"), *self.organisation.accounts))
        port = str(self.ports["google_identity"])
        arguments = ("--port", port, "--issuer", self.url("google_identity"), "--accounts", json.dumps(accounts))
        return self._python("google_identity", "cab_dev.services.google_identity", *arguments)

    def _emulators(self) -> list[Part]:
        if self.options.emulators == "embedded":
            return [self._embedded("firestore"), self._embedded("pubsub"), self._embedded("secret_manager")]
        return [
            self._official("firestore"),
            self._official("pubsub"),
            self._embedded("secret_manager"),
            self._push_proxy(),
        ]

    def _bigquery(self) -> Service:
        server = bigquery.server(
            port=self.ports["bigquery"], grpc_port=self.leases.take_free(), data_dir=self._bigquery_data
        )
        return Service(
            name="bigquery",
            command=server.command,
            environment=server.environment,
            directory=ROOT,
            port=self.ports["bigquery"],
            ready=server.ready_url,
            url=server.url,
            needs=("audit_tables",),
        )

    def _embedded(self, name: str) -> Service:
        """One process for each, so that one can be killed while the others go on. Data survive a restart."""
        control_port = self.control_ports[name]
        return Service(
            name=name,
            command=(
                *(sys.executable, "-m", "gcp_emulators"),
                *(f"--{name.replace('_', '-')}-port", str(self.ports[name]), "--control-port", str(control_port)),
                *("--data-dir", str(self.state / "data" / name), "--identity-url", self.url("google_identity")),
                *("--rights", str(self.rights_file), "--callers", json.dumps(self.caller_ports[name])),
            ),
            environment=self._environment(name),
            directory=ROOT,
            port=self.ports[name],
            ready=f"http://127.0.0.1:{control_port}/health",
            url=f"http://127.0.0.1:{control_port}",
        )

    def _official(self, name: Literal["firestore", "pubsub"]) -> Service:
        try:
            emulator = official_emulator(name, self.ports[name], cache=ROOT / ".cab" / "cache")
        except NotInstalled as exc:
            raise StartFailed(str(exc)) from exc
        return Service(
            name=name,
            command=emulator.command,
            environment=self._environment(name),
            directory=ROOT,
            port=self.ports[name],
            ready=emulator.ready_url,
            url=f"http://127.0.0.1:{self.ports[name]}",
            on_end=emulator.keep_archive,
        )

    def _push_targets(self) -> dict[str, PushTarget]:
        """Where Pub/Sub delivers, by topic."""
        ingest, refresh = self.called_at("ingest_audit"), self.called_at("refresh_grants")
        push = account("pubsub_push")
        return {
            local_cloud.AUDIT_TOPIC: PushTarget(endpoint=f"{ingest}/", audience=ingest, account=push),
            local_cloud.GRANTS_DUE_TOPIC: PushTarget(endpoint=f"{refresh}/grants/due", audience=refresh, account=push),
        }

    def _push_proxy(self) -> Service:
        routes = {
            f"/{topic}": {"target": target.endpoint, "audience": target.audience, "email": target.account}
            for topic, target in self._push_targets().items()
        }
        port = str(self.ports["push_proxy"])
        arguments = ("--port", port, "--identity-url", self.url("google_identity"), "--routes", json.dumps(routes))
        return self._python("push_proxy", "cab_dev.services.push_proxy", *arguments)

    def _filling(self) -> list[Part]:
        tables = Step(name="audit_tables", run=self._lay_audit_tables)
        return [
            *([tables] if self.with_bigquery else []),
            Step(name="topics", run=self._create_topics, needs=("pubsub",), redo_after=("pubsub",)),
            Step(
                name="secrets",
                run=self._store_secrets,
                needs=("secret_manager", "configuration"),
                redo_after=("secret_manager",),
            ),
            Step(
                name="signing_keys",
                run=self._create_signing_keys,
                needs=("secret_manager", "firestore"),
                redo_after=("secret_manager", "firestore"),
            ),
            Step(
                name="permissions",
                run=self._permit_readers,
                needs=("secrets", "signing_keys"),
                redo_after=("secret_manager",),
            ),
        ]

    def _function(self, name: str) -> Service:
        refresh, exchange = self.called_at("refresh_grants"), self.called_at("exchange_token")
        own: dict[str, dict[str, str]] = {
            "exchange_token": {
                "CAB_REFRESH_GRANTS_URL": refresh,
                "CAB_EXCHANGE_TOKEN_URL": exchange,
                "CAB_CALL_CALLERS": account("call_tool"),
            },
            "call_tool": {"CAB_EXCHANGE_TOKEN_URL": exchange},
            "connect_account": {"CAB_REFRESH_GRANTS_URL": refresh},
            "refresh_grants": {
                "CAB_REFRESH_GRANTS_URL": refresh,
                "CAB_TOKEN_CALLERS": account("exchange_token"),
                "CAB_REVOKE_CALLERS": f"{account('connect_account')},{account('operator')}",
                "CAB_SWEEP_CALLERS": f"{account('scheduler')},{account('pubsub_push')}",
            },
            "ingest_audit": {
                "CAB_INGEST_AUDIT_URL": self.called_at("ingest_audit"),
                "CAB_PUSH_ACCOUNT": account("pubsub_push"),
                "CAB_AUDIT_SUBSCRIPTION": f"projects/{PROJECT}/subscriptions/{local_cloud.AUDIT_SUBSCRIPTION}",
                **({} if self.bigquery_url else {"CAB_AUDIT_ROWS_FILE": str(self.rows_file)}),
            },
        }
        metadata = self._metadata_address(name)
        return Service(
            name=name,
            command=(
                *(str(self.options.python), "-m", "functions_framework"),
                *("--source", f"functions/{name}/main.py", "--target", name),
                *("--host", "127.0.0.1", "--port", str(self.ports[name])),
            ),
            environment={
                **self._environment(name),
                **self.client_environment(),
                **self._emulators_of(name),
                "GCE_METADATA_HOST": metadata,
                "GCE_METADATA_IP": metadata,
                **own.get(name, {}),
            },
            directory=ROOT,
            port=self.ports[name],
            ready=f"{self.url(name)}/health",
            url=self.url(name),
            needs=("configuration", "google_identity", "firestore", "pubsub", "secret_manager"),
        )

    @property
    def rows_file(self) -> Path:
        """Where audit rows go when there is no BigQuery."""
        return self.state / "audit_rows.jsonl"

    def _gateway(self) -> Service:
        routes = gateway.public_routes({name: self.url(name) for name in FUNCTIONS})
        arguments = [f"--route={route.path}={route.origin}" for route in routes]
        functions = {name: self.url(name) for name in FUNCTIONS}
        arguments += ["--rights", str(self.rights_file), "--project", PROJECT, "--issuer", self.url("google_identity")]
        arguments += ["--functions", json.dumps(functions), "--doors", json.dumps(self.doors)]
        arguments += ["--instances", str(self.state / INSTANCES_NAME)]
        if self.bigquery_url:
            arguments += ["--bigquery", json.dumps(["ingest_audit", self.bigquery_door, self.bigquery_url])]
        return self._python(
            "gateway", "cab_dev.services.gateway", "--port", str(self.ports["gateway"]), *arguments, ready=None
        )

    def _scheduler(self) -> Service:
        refresh = self.called_at("refresh_grants")
        return Service(
            name="scheduler",
            command=(
                *(sys.executable, "-m", "cab_dev.services.scheduler"),
                *("--url", f"{refresh}/grants/sweep", "--audience", refresh, "--account", account("scheduler")),
                *("--identity-url", self.url("google_identity"), "--every", str(SWEEP_EVERY_S)),
            ),
            environment=self._environment("scheduler"),
            directory=ROOT,
            needs=("refresh_grants", "gateway"),
        )

    # --- the steps ---

    async def _prepare_configuration(self) -> str:
        """Read the folder; make the keys and secrets that its clients need."""
        try:
            configuration = FolderConfiguration(self.config_dir, self._configuration_variables())
            deployment = await asyncio.to_thread(configuration.load)
        except ConfigurationRefused as exc:
            raise StartFailed(
                f"The configuration in {self.options.config_dir} has mistakes; `cab config validate` explains each:\n{exc}"
            ) from exc
        if not deployment.front_ends:
            raise StartFailed(f"{self.options.config_dir} has no front end: add one to agents.yaml.")
        clients: tuple[FrontEnd | Agent, ...] = (*deployment.front_ends, *deployment.agents)
        for client in clients:
            if any(isinstance(method, PrivateKeyJwt) for method in client.authentication):
                write_client_key(self._keys, client.client_id)
        self._secrets |= {name: secrets.token_urlsafe(32) for name in _secret_names(deployment)}
        self._secrets |= {name: json.dumps(new_private_jwk()) for name in _assertion_key_names(deployment)}
        for name, value in self._secrets.items():
            write_private(self.state / "secrets" / name, value)
        self.organisation.prepare(deployment, secrets=self._secrets, folder=self.state / "organisation")
        self._write_probe(deployment)
        self.deployment = deployment
        return f"{self.config_dir.name}, policy version {deployment.policy_version[:20]}"

    async def _create_topics(self) -> str:
        targets = self._push_targets()
        if self.options.emulators == "official":
            targets = {
                topic: PushTarget(
                    endpoint=f"{self.url('push_proxy')}/{topic}", audience=target.audience, account=target.account
                )
                for topic, target in targets.items()
            }
        return await asyncio.to_thread(
            local_cloud.create_topics,
            PROJECT,
            audit=targets[local_cloud.AUDIT_TOPIC],
            grants_due=targets[local_cloud.GRANTS_DUE_TOPIC],
        )

    async def _lay_audit_tables(self) -> str:
        return await asyncio.to_thread(audit_dataset.lay, self._bigquery_data, project=PROJECT, dataset=AUDIT_DATASET)

    async def _store_secrets(self) -> str:
        return await local_cloud.store_secrets(PROJECT, self._secrets)

    async def _create_signing_keys(self) -> str:
        return await local_cloud.create_signing_keys(PROJECT)

    async def _permit_readers(self) -> str:
        return await local_cloud.permit_readers(PROJECT, self._secrets)

    async def _connect(self) -> str:
        return await asyncio.to_thread(self.organisation.connect, self.origin)

    # --- what runs ---

    def describe(self, services: Mapping[str, Service], pids: Mapping[str, int]) -> StackFile:
        """stack.json of the running stack."""
        deployment = self.deployment
        if deployment is None:
            raise RuntimeError("the configuration was not read yet")
        front_end = deployment.front_ends[0]
        return StackFile(
            origin=self.origin,
            issuer=deployment.broker.sts_issuer,
            edge_issuer=deployment.broker.edge_issuer,
            project_id=PROJECT,
            idp=_idp_of(front_end),
            front_end=self._client_entry(front_end.client_id),
            front_ends={
                entry.client_id: FrontEndEntry(**asdict(self._client_entry(entry.client_id)), idp=_idp_of(entry))
                for entry in deployment.front_ends
            },
            agents={agent.client_id: self._client_entry(agent.client_id) for agent in deployment.agents},
            connections={
                connection.id: ConnectionEntry(
                    resource=connection.resource,
                    audience=connection.id,
                    api_base=connection.called_at,
                )
                for connection in deployment.connections
            },
            emulators=EmulatorEntry(
                firestore=self.address("firestore"),
                pubsub=self.address("pubsub"),
                secret_manager=self.address("secret_manager"),
                bigquery=self.bigquery_url,
            ),
            audit=AuditEntry(dataset=f"{PROJECT}.{AUDIT_DATASET}", events_view=f"{PROJECT}.{AUDIT_DATASET}.events"),
            services={
                name: ServiceEntry(
                    url=service.url,
                    pid=pids.get(name),
                    log=str(self.state / "logs" / f"{name}.log"),
                    called_at=self.called_at(name) if name in self.doors else None,
                )
                for name, service in services.items()
            },
        )

    def _client_entry(self, client_id: str) -> ClientEntry:
        key = self._keys / f"{client_id}.json"
        return ClientEntry(client_id=client_id, private_key_file=str(key) if key.exists() else None)


def _idp_of(front_end: FrontEnd) -> IdpEntry:
    return IdpEntry(issuer=front_end.identity_provider, client_id=front_end.idp_client_id)


def _secret_names(deployment: Deployment) -> list[str]:
    """Every shared secret that the configuration refers to."""
    references = [provider.login.client_secret for provider in deployment.identity_providers]
    references += [connection.client_secret for connection in deployment.connections if connection.client_secret]
    for agent in deployment.agents:
        references += [method.secret for method in agent.authentication if isinstance(method, ClientSecret)]
    return sorted({reference.secret for reference in references})


def _assertion_key_names(deployment: Deployment) -> list[str]:
    """Every secret that must be a private JWK: the keys of `jwt_bearer` connections."""
    references = [connection.assertion_key for connection in deployment.connections]
    return sorted({reference.secret for reference in references if reference is not None})


# --- running it ---


@contextlib.contextmanager
def _own_state_dir(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this process, emptied of what an earlier stack left. Raises: StartFailed."""
    state_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise StartFailed(
                f"A stack already runs with the state folder {state_dir}: stop it, or give this one another --state-dir."
            ) from exc
        for name in ("keys", "secrets", "organisation", "data", "home", "logs"):
            shutil.rmtree(state_dir / name, ignore_errors=True)
            (state_dir / name).mkdir(mode=0o700)  # keys, secrets, tokens: nobody else on this machine may look
        rights = (RIGHTS_NAME, used_file(Path(RIGHTS_NAME)).name)
        for name in (
            stack_file.FILE_NAME,
            stack_file.ENVIRONMENT_NAME,
            control.STATE_FILE,
            "audit_rows.jsonl",
            INSTANCES_NAME,
            *rights,
        ):
            (state_dir / name).unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


async def run_stack(options: StackOptions, stream: TextIO) -> int:
    """Start the stack, keep it up until SIGINT or SIGTERM, stop it. Returns the exit status."""
    progress = Progress(stream)
    stop = asyncio.Event()
    try:
        with _own_state_dir(options.state_dir), PortLeases() as leases:
            stack = Stack(options, leases, with_bigquery=options.bigquery and _have_bigquery(progress))
            await _run(stack, progress, stop)
    except StartFailed as exc:
        progress.trouble(str(exc))
        return 1
    return 0


def _have_bigquery(progress: Progress) -> bool:
    """Install the BigQuery emulator where that is possible and was not done yet; otherwise say in one line what is missing."""
    try:
        if not bigquery.is_installed():
            bigquery.find_python()
            progress.line("Installing the BigQuery emulator (once, half a minute) ...")
            bigquery.install()
    except bigquery.NotInstallable as exc:
        progress.line(f"No BigQuery here: {exc}")
        return False
    return True


def _log_to_file(path: Path) -> None:
    """What the clients in this process log (a retry while an emulator warms up, say) is no news on the screen."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)


async def _run(stack: Stack, progress: Progress, stop: asyncio.Event) -> None:
    begun = time.monotonic()
    _log_to_file(stack.state / "logs" / "supervisor.log")
    os.environ.update(stack.client_environment())  # for the clients of this process, which fill the emulators
    stack.write_rights()
    parts = stack.parts()
    services = {part.name: part for part in parts if isinstance(part, Service)}

    def publish() -> None:
        stack.describe(services, supervisor.pids()).write(stack.state)

    supervisor = Supervisor(parts, logs=stack.state / "logs", progress=progress, on_change=publish)

    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set() and number == signal.SIGINT:  # Ctrl-C again: somebody does not want to wait
            supervisor.kill()
        stop.set()

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    if stack.options.stop_at_end_of_input:
        loop.add_reader(sys.stdin.fileno(), on_input)
    starting = asyncio.create_task(supervisor.start())
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            for name, environment in (
                (stack_file.ENVIRONMENT_NAME, stack.operator_environment()),
                (stack_file.DOCTOR_ENVIRONMENT_NAME, stack.doctor_environment()),
            ):
                (stack.state / name).write_text(json.dumps(environment, indent=2) + "\n", "utf-8")
            publish()
            async with control.listening(stack.state, _Controls(supervisor).handle):
                progress.line(
                    f"\n{stack.origin} is ready after {time.monotonic() - begun:.1f} s; pages for people: {stack.origin}/me"
                    "\nCtrl-C stops it."
                )
                await waiting
    finally:
        starting.cancel()
        await asyncio.wait({starting})
        waiting.cancel()
        stack_file.remove(stack.state)
        begun = time.monotonic()
        await supervisor.stop()
        progress.line(f"stopped in {time.monotonic() - begun:.1f} s")


@dataclass(frozen=True)
class _Controls:
    """Commands that arrive at the control socket."""

    supervisor: Supervisor

    async def handle(self, request: dict[str, Any]) -> str:
        command, service = request.get("command"), str(request.get("service"))
        try:
            if command == "restart":
                await self.supervisor.restart(service)
                return f"{service} restarted"
            if command in ("stop", "kill"):
                await self.supervisor.halt(service, kill=command == "kill")
                return f"{service} stopped"
        except KeyError as exc:
            raise control.ControlFailed(f"The stack has no service {service}.") from exc
        except StartFailed as exc:
            raise control.ControlFailed(str(exc)) from exc
        raise control.ControlFailed("The commands are restart, stop and kill.")

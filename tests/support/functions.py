"""The Cloud Run functions as they are deployed, built from their main.py, with doubles where Google Cloud and the network are."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uuid_utils
from functions_framework.aio import create_asgi_app
from tests.support.web import Web, WebClient

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.http.origins import origin_of
from cab.adapters.store_clock import StoreClock
from cab.adapters.system import SystemRandomness
from cab.domain.configured.deployment import Deployment
from cab.ports import AuditLog, Clock, Documents, ServiceTokens
from cab_dev.fakes.audit_log import InMemoryAuditLog
from cab_dev.fakes.audit_rows import InMemoryAuditRows
from cab_dev.fakes.clock import SettableClock
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.quarantine import InMemoryQuarantine
from cab_dev.fakes.secrets import InMemoryVault

ROOT = Path(__file__).parents[2]


class DatedRandomness(SystemRandomness):
    """Ids of events have the time of the world's clock, as real ones have that of theirs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def event_id(self) -> str:
        return str(uuid_utils.uuid7(nanoseconds=int(self._clock.now().timestamp() * 1e9)))


class Publisher:
    """Pub/Sub topics as lists."""

    def __init__(self) -> None:
        self.published: list[tuple[str, Sequence[Any]]] = []

    async def publish(self, topic: str, messages: Sequence[Any]) -> None:
        self.published.append((topic, messages))

    async def close(self) -> None:
        """Nothing to let go of."""


_deployments: dict[tuple[frozenset[tuple[str, str]], tuple[tuple[str, bytes], ...]], Deployment] = {}


class RememberedConfiguration:
    """`FolderConfiguration` that reads equal folders once in a run: hundreds of tests start the same functions."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        others = ("PYTEST_", "FUNCTION_")  # pytest's and functions-framework's: other ones for each test and function
        ours = {name: value for name, value in environment.items() if not name.startswith(others)}
        ours.pop("CAB_CONFIG_DIR", None)
        self._folder = FolderConfiguration(root, ours)

    def load(self) -> Deployment:
        root = self._folder.root
        content = _kept(root) if root.is_relative_to(ROOT) else _content(root)
        key = frozenset(self._folder.environment.items()), content
        if key not in _deployments:
            _deployments[key] = self._folder.load()
        return _deployments[key]


def _content(root: Path) -> tuple[tuple[str, bytes], ...]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return tuple((str(path.relative_to(root)), path.read_bytes()) for path in files)


_kept = cache(_content)  # of a folder that no test writes into


_engines: dict[int, CedarPolicyEngine] = {}


def remembered_engine(deployment: Deployment) -> CedarPolicyEngine:
    """The policy engine of a remembered deployment, its policies parsed once."""
    if id(deployment) not in _engines:
        _engines[id(deployment)] = CedarPolicyEngine(deployment)
    return _engines[id(deployment)]


@dataclass
class Cloud:
    """What the functions share: one project's databases, secrets, topics and clock, and the web around it."""

    clock: SettableClock = field(default_factory=SettableClock)
    documents: defaultdict[str, InMemoryDocuments] = field(init=False)
    vault: InMemoryVault = field(default_factory=InMemoryVault)
    audit_logs: dict[str, InMemoryAuditLog] = field(default_factory=dict)
    audit_rows: InMemoryAuditRows = field(default_factory=InMemoryAuditRows)
    quarantine: InMemoryQuarantine = field(default_factory=InMemoryQuarantine)
    publisher: Publisher = field(default_factory=Publisher)
    web: Web = field(default_factory=Web)
    service_tokens: dict[str, ServiceTokens] = field(default_factory=dict)  # by function

    def __post_init__(self) -> None:
        self.documents = defaultdict(lambda: InMemoryDocuments(clock=self.clock))

    def audit_log(self, *_: Any, service: str, revision: str, **__: Any) -> AuditLog:
        """Of one function, for all its instances."""
        return self.audit_logs.setdefault(service, InMemoryAuditLog(service=service, revision=revision))

    def store_clock(self, documents: Documents, local: Clock) -> StoreClock:
        return StoreClock(documents, local, monotonic=lambda: self.clock.now().timestamp())

    @contextmanager
    def google(self) -> Iterator[None]:
        """What functions that are built inside have instead of Google's services."""
        google = "cab.adapters.google_cloud"
        with (
            patch(f"{google}.firestore.documents.FirestoreDocuments", lambda _, database: self.documents[database]),
            patch(f"{google}.secrets.SecretManagerVault", lambda _, **_where: self.vault),
            patch(f"{google}.pubsub.audit_log.PubSubAuditLog", self.audit_log),
            patch(f"{google}.bigquery.audit_rows.BigQueryAuditRows", lambda *_: self.audit_rows),
            patch(f"{google}.pubsub.quarantine.PubSubQuarantine", lambda *_: self.quarantine),
            patch(f"{google}.pubsub.publisher.PubSubPublisher", lambda *_, **__: self.publisher),
        ):
            yield

    def build(self, function: str, environment: Mapping[str, str]) -> Any:
        """The ASGI application that functions-framework serves for `functions/FUNCTION/main.py`."""

        def http(origins: Iterable[str], *, what: str, **_: Any) -> WebClient:
            return WebClient(self.web, origins, what=what)

        with (
            patch.dict(os.environ, environment),
            patch("cab.transport.logs.configure_logging", lambda _: None),  # it would take pytest's own handlers away
            patch("cab.adapters.configuration.loader.FolderConfiguration", RememberedConfiguration),
            patch("cab.adapters.cedar.engine.CedarPolicyEngine", remembered_engine),
            patch("cab.bootstrap.shared.SystemClock", lambda: self.clock),
            patch("cab.bootstrap.shared.SystemRandomness", lambda: DatedRandomness(self.clock)),
            patch("cab.adapters.store_clock.StoreClock", self.store_clock),
            patch(
                "cab.adapters.google_cloud.service_tokens.GoogleServiceTokens", lambda _: self.service_tokens[function]
            ),
            self.google(),
            patch("cab.adapters.http.client.AiohttpClient", http),
            patch("cab.adapters.http.platforms.Platforms", http),
            patch("cab.adapters.http.published.PublishedDocuments", http),
            patch(
                "cab.adapters.http.own_function.OwnFunction", lambda url, **options: http([origin_of(url)], **options)
            ),
        ):
            return create_asgi_app(  # type: ignore[no-untyped-call]
                function, str(ROOT / "functions" / function / "main.py")
            )

"""Everything the doctor looks at, at once: what one part waits for does not hold up another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.adapters.http.aiohttp_wire import why_failed
from cab.adapters.http.client import AiohttpClient
from cab.adapters.http.origins import origin_of
from cab.domain.configured.deployment import Deployment
from cab.ports import Clock, Unavailable
from cab.stores.signing_keys import Issuer, KeyRing
from cab_ops.check_connection import Holds
from cab_ops.doctor import expected, outside, project
from cab_ops.doctor.diagnosis import Diagnosis, unknown
from cab_ops.doctor.exercise import Exercise, Probe, arrives
from cab_ops.doctor.outside import Outside
from cab_ops.doctor.project import CloudFacts, ProjectAsItIs, google_rest

PARTS: Final = ("project", "secrets", "keys", "topics", "origin", "providers", "exchange")


class Examination:
    def __init__(
        self,
        deployment: Deployment,
        project_id: str,
        dataset: str,
        probe: Probe | None,
        clock: Clock,
    ) -> None:
        self._deployment = deployment
        self._project_id = project_id
        self._dataset = dataset
        self._probe = probe
        self._clock = clock
        self._http = AiohttpClient(
            {origin_of(url) for url in _urls(deployment)},
            what="deployment",
            allow_loopback_http=deployment.broker.allow_loopback_http,
            private_hosts=deployment.broker.private_hosts,
            keep_alive=False,
        )
        self._seen = ProjectAsItIs(project_id)
        self._vault = SecretManagerVault(project_id)
        self._outside = Outside(deployment, self._http, clock, why=why_failed)

    async def __call__(self, parts: Collection[str] = PARTS) -> list[Diagnosis]:
        """The findings, part by part in the order of `PARTS`. Raises nothing that a deployment can cause."""
        looks: dict[str, Callable[[], Awaitable[list[Diagnosis]]]] = {
            "project": self._project,
            "secrets": lambda: project.secrets_of(self._seen, self._deployment),
            "keys": self._keys,
            "topics": self._topics,
            "origin": self._origin,
            "providers": self._providers,
            "exchange": self._exchange,
        }
        try:
            found = await asyncio.gather(*(looks[name]() for name in PARTS if name in parts))
        finally:
            for opened in (self._http, self._seen, self._vault):
                await opened.close()
        return [it for part in found for it in part]

    async def _project(self) -> list[Diagnosis]:
        found = await asyncio.gather(*(project.store(self._seen, name) for name in expected.DATABASES))
        if os.environ.get("FIRESTORE_EMULATOR_HOST"):
            return [it for part in found for it in part]
        try:
            by_part = await self._seen.sweeps_ask_by_part()
        except Unavailable:
            by_part = True  # the database is ill as it is
        cloud = await asyncio.to_thread(self._cloud, sweeps_ask_by_part=by_part)
        return [*(it for part in found for it in part), *cloud]

    async def _topics(self) -> list[Diagnosis]:
        return [*await project.messaging(self._seen), await project.unsent_events(self._seen, self._clock.now())]

    def _cloud(self, *, sweeps_ask_by_part: bool) -> list[Diagnosis]:
        try:
            facts = CloudFacts(self._project_id, google_rest(), sweeps_ask_by_part=sweeps_ask_by_part)
        except Unavailable:
            return [unknown("project", "there are no credentials", "run `gcloud auth application-default login`")]
        return facts.look()

    async def _keys(self) -> list[Diagnosis]:
        found = await asyncio.gather(*(project.signing_keys(self._seen, issuer) for issuer in Issuer))
        return [it for part in found for it in part]

    async def _origin(self) -> list[Diagnosis]:
        named = await self._outside.name()
        if any(it.holds is Holds.NO for it in named):
            return named  # all that follows would say the same
        rings: dict[Issuer, KeyRing | None] = {}
        for issuer in Issuer:
            try:
                rings[issuer] = await self._seen.ring(issuer)
            except Unavailable:
                rings[issuer] = None
        return [*named, *await self._outside.doors(), *await self._outside.published(rings)]

    async def _providers(self) -> list[Diagnosis]:
        logins, connections = await asyncio.gather(
            outside.identity_providers(self._deployment, self._http, self._clock, why=why_failed),
            outside.connections(self._deployment, self._http, self._vault, self._clock, why=why_failed),
        )
        return [*logins, *connections]

    async def _exchange(self) -> list[Diagnosis]:
        exercise = Exercise(self._deployment, self._http, why=why_failed)
        (refused, of_refusal), (succeeded, of_token) = await asyncio.gather(
            exercise.must_be_refused(),
            self._probed(exercise),
        )
        # A token's own event. Refusals of strangers are only counted when there are several in a minute, as where two run this.
        txn = of_refusal if self._probe is None else of_token
        arrived = [await asyncio.to_thread(arrives, self._project_id, self._dataset, txn)] if txn else []
        return [*refused, *succeeded, *arrived]

    async def _probed(self, exercise: Exercise) -> tuple[list[Diagnosis], str | None]:
        if self._probe is None:
            return [unknown("an exchange that must succeed", "no probe was given", "write one: docs/doctor.md")], None
        return await exercise.must_succeed(self._probe)


def _urls(deployment: Deployment) -> list[str]:
    """Every address that is asked."""
    urls: list[str | None] = [deployment.broker.origin]
    for provider in deployment.identity_providers:
        urls += [provider.issuer, provider.jwks_uri, *provider.endpoint_origins]
    for connection in deployment.connections:
        behind = deployment.provider_of(connection)
        urls += [*behind.endpoints, behind.authorization_endpoint, behind.issuer]
    return [url for url in urls if url is not None]

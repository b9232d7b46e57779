"""The deployment from outside: its name, certificate and doors, the key sets, the clock, and the systems that it depends on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from cab.adapters.http.tls import tls_context
from cab.domain.configured.connections import Connection, SecretReference
from cab.domain.configured.deployment import Deployment
from cab.encoding import strict_json
from cab.ports import Clock, HttpAnswer, HttpClient, NotFound, SecretReader, Unavailable
from cab.stores.signing_keys import Issuer, KeyRing
from cab_ops.check_connection import CLOCK_MAY_DIFFER, CheckConnection, Finding, Holds, Why, answer_or_words
from cab_ops.doctor.diagnosis import Diagnosis, ill, well

_TIMEOUT_S: Final = 10.0
_CERTIFICATE_LEFT: Final = timedelta(days=14)
# A request that each function answers by itself, and the statuses that show that it did.
_DOORS: Final = (
    ("publish_metadata", "GET", "/health", (200,)),
    ("mint_assertion", "POST", "/edge/token", (400, 401)),
    ("exchange_token", "POST", "/oauth2/token", (400, 401)),
    ("call_tool", "GET", "/tools", (401,)),
    ("connect_account", "GET", "/me", (200, 302, 303)),
)


class Outside:
    """`why` turns a failed connection into words."""

    def __init__(self, deployment: Deployment, http: HttpClient, clock: Clock, *, why: Why) -> None:
        self._deployment = deployment
        self._http = http
        self._clock = clock
        self._why = why

    async def name(self) -> list[Diagnosis]:
        """Name and certificate of an origin on https; one on http is this machine."""
        parts = urlsplit(self._deployment.broker.origin)
        host = parts.hostname or ""
        if parts.scheme != "https":
            return [well("name", "http on this machine")]
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.getaddrinfo(host, 443), _TIMEOUT_S)
        except (socket.gaierror, TimeoutError):
            return [ill("name", f"{host} does not resolve", "point it at the output `address` of the module")]
        try:
            certificate = await asyncio.wait_for(self._certificate(host, parts.port or 443), _TIMEOUT_S)
        except ssl.SSLCertVerificationError as error:
            return [ill("certificate", str(error.verify_message), "wait: it is issued within an hour of the name")]
        except (OSError, TimeoutError):
            return [ill("certificate", f"nothing answers TLS at {host}", "the name must lead to the output `address`")]
        return [lifetime(certificate, self._clock.now())]

    async def _certificate(self, host: str, port: int) -> Mapping[str, Any]:
        _, writer = await asyncio.open_connection(host, port, ssl=tls_context())
        try:
            certificate: Mapping[str, Any] = writer.get_extra_info("peercert")
            return certificate
        finally:
            writer.close()

    async def doors(self) -> list[Diagnosis]:
        """Each public function answers by itself, and the clock of what answers is this machine's."""
        return [it for door in _DOORS for it in await self._door(*door)]

    async def _door(self, function: str, method: str, path: str, shows: tuple[int, ...]) -> list[Diagnosis]:
        url = self._deployment.broker.origin + path
        sending = (
            self._http.get(url, timeout_s=_TIMEOUT_S, max_bytes=1_000_000)
            if method == "GET"
            else self._http.post_form(url, {"grant_type": "cab-doctor"}, timeout_s=_TIMEOUT_S)
        )
        answer = await answer_or_words(sending, self._why)
        remedy = f"look at the log of {function}: it says at its start what it misses"
        if isinstance(answer, str):
            return [ill(function, f"{path}: {answer}", remedy)]
        if answer.status not in shows:
            return [ill(function, f"{path}: HTTP {answer.status}{_reason(answer)}", remedy)]
        return [well(function, "answers"), *([self._clock_of(answer)] if function == "publish_metadata" else [])]

    def _clock_of(self, answer: HttpAnswer) -> Diagnosis:
        try:
            apart = abs(parsedate_to_datetime(answer.headers.get("date", "")) - self._clock.now())
        except (TypeError, ValueError):
            return well("clock", "the answer has no Date")
        if apart > CLOCK_MAY_DIFFER:
            says = f"this machine and the deployment are {int(apart.total_seconds())} s apart"
            return ill("clock", says, "set this machine's clock by NTP; Google's is right")
        return well("clock", "agrees")

    async def published(self, rings: Mapping[Issuer, KeyRing | None]) -> list[Diagnosis]:
        """Discovery for exactly the configured issuer, and each active key in its public set."""
        broker = self._deployment.broker
        found = [await self._discovery(broker.sts_issuer)]
        for issuer, url in ((Issuer.STS, broker.sts_issuer), (Issuer.EDGE, broker.edge_issuer)):
            check, ring = f"key set {issuer.value}", rings[issuer]
            answer = await answer_or_words(self._http.get(f"{url}/jwks.json", timeout_s=_TIMEOUT_S), self._why)
            if isinstance(answer, str) or answer.status != 200:
                says = answer if isinstance(answer, str) else f"HTTP {answer.status}"
                found.append(ill(check, says, "look at the log of publish_metadata"))
            elif ring is not None and ring.active is not None and ring.active.kid not in answer.body.decode():
                says = f"{ring.active.kid} signs and is not published"
                found.append(
                    ill(check, says, "wait 30 s; then the domain leads to another deployment than this project")
                )
            else:
                found.append(well(check, "published"))
        return found

    async def _discovery(self, issuer: str) -> Diagnosis:
        parts = urlsplit(issuer)
        url = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}"
        answer = await answer_or_words(self._http.get(url, timeout_s=_TIMEOUT_S), self._why)
        if isinstance(answer, str):
            return ill("discovery", answer, "the domain must lead to the output `address` of the module")
        try:
            published = strict_json.load_object(answer.body).get("issuer")
        except strict_json.InvalidJson:
            published = None
        if published != issuer:
            says = f"it is {'not there' if published is None else 'for another issuer'}"
            return ill(
                "discovery",
                says,
                "origin in broker.yaml, the variable `domain` and the deployed configuration must agree",
            )
        return well("discovery", "published")


def lifetime(certificate: Mapping[str, Any], now: datetime) -> Diagnosis:
    """Whether a certificate, as `ssl` shows it, lasts."""
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    if ends - now < _CERTIFICATE_LEFT:
        says = f"it ends on {ends:%Y-%m-%d}"
        return ill("certificate", says, "Google renews it while the name leads to the output `address`: look there")
    return well("certificate", f"until {ends:%Y-%m-%d}")


def _reason(answer: HttpAnswer) -> str:
    try:
        return f", {strict_json.load_object(answer.body).get('reason_code')}"
    except strict_json.InvalidJson:
        return ""


# --- what it depends on ---


def told(title: str, findings: list[Finding], remedy: str) -> list[Diagnosis]:
    """Findings of the closer checks, each under its subject."""
    return [
        Diagnosis(f"{title}: {it.check}", it.holds, it.says, remedy if it.holds is not Holds.YES else "")
        for it in findings
    ]


async def connections(
    deployment: Deployment, http: HttpClient, secrets: SecretReader, clock: Clock, *, why: Why
) -> list[Diagnosis]:
    from cab.adapters.system import SystemRandomness
    from cab.use_cases.upstream.provider_client import ProviderCalls

    async def check(connection: Connection) -> list[Finding]:
        calls = ProviderCalls(http, secrets) if await _may_read(secrets, connection.client_secret) else None
        return await CheckConnection(deployment, http, calls, clock, SystemRandomness(), why=why)(connection)

    asked = [it for it in deployment.connections if deployment.provider_of(it).token_endpoint is not None]
    found = await asyncio.gather(*(check(it) for it in asked))
    return [
        it
        for connection, findings in zip(asked, found, strict=True)
        for it in told(
            f"connection {connection.id}", findings, f"`cab connection check {connection.id}` says what was compared"
        )
    ]


async def _may_read(secrets: SecretReader, reference: SecretReference | None) -> bool:
    """Whoever looks at a deployment need not be somebody who may read its client secrets."""
    try:
        if reference is not None:
            await secrets.access(reference.secret, reference.version)
    except NotFound:
        return True  # the check itself says so
    except Unavailable:
        return False
    return True


async def identity_providers(deployment: Deployment, http: HttpClient, clock: Clock, *, why: Why) -> list[Diagnosis]:
    from cab.adapters.keys.key_sets import RemoteKeySets, source_of
    from cab_ops.check_identity_provider import CheckIdentityProvider

    providers = deployment.identity_providers
    keys = RemoteKeySets({it.issuer: source_of(it) for it in providers}, http, clock)
    check = CheckIdentityProvider(deployment, http, keys, clock, why=why)
    found = await asyncio.gather(*(check.issuer(it) for it in providers))
    return [
        it
        for provider, findings in zip(providers, found, strict=True)
        for it in told(provider.issuer, findings, f"`cab idp check {provider.issuer}` says what was compared")
    ]

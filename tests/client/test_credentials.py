"""Who the workload is, and keys that tokens are bound to."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import jwt
import pytest

from cab_client import (
    Agent,
    Assertion,
    AsyncAgent,
    ClientSecret,
    DpopKey,
    Intent,
    Misconfigured,
    Permit,
    PrivateKeyJwt,
    Secret,
    TryLater,
    WorkloadIdentity,
)
from cab_client.resource import CabResource, covers
from cab_client.testing import FakeBroker, new_key
from cab_client.transport import use_transport
from cab_dev.services import google_identity

READ = Intent("crm.opportunity.read", on="crm", identifier="opportunity/1")


def asking(broker: FakeBroker, path: str) -> int:
    return sum(path in str(request.url) for request in broker.log)  # type: ignore[attr-defined]


class Logging(FakeBroker):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.log: list[httpx2.Request] = []

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        self.log.append(request)
        return super()._handle(request)


def test_the_metadata_server_is_asked_once_for_each_issuer() -> None:
    with Logging().installed() as broker:
        broker.permit(READ.action, effect="read")
        agent = Agent(broker.origin, WorkloadIdentity(), connections=broker.connections)
        for _ in range(3):
            agent.permit(READ, assertion=broker.user("alice"))
        assert asking(broker, "computeMetadata") == 1
        (asked,) = [request for request in broker.log if "computeMetadata" in str(request.url)]
    assert asked.url.params["audience"] == f"{broker.origin}/oauth2"
    assert asked.headers["metadata-flavor"] == "Google"
    assert asked.url.host == "metadata.google.internal"


def test_an_identity_token_is_fetched_again_five_minutes_before_its_end() -> None:
    import time

    clock = [time.time()]
    with Logging().installed() as broker:
        broker.permit(READ.action, effect="read")
        agent = Agent(broker.origin, WorkloadIdentity(now=lambda: clock[0]), connections=broker.connections)
        agent.permit(READ, assertion=broker.user("alice"))
        clock[0] += 3200
        agent.permit(READ, assertion=broker.user("alice"))
        assert asking(broker, "computeMetadata") == 1
        clock[0] += 101
        agent.permit(READ, assertion=broker.user("alice"))
        assert asking(broker, "computeMetadata") == 2


def test_without_a_metadata_server_it_is_said_what_is_missing() -> None:
    def away(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no route", request=request)

    agent = Agent("https://cab.fake", WorkloadIdentity(), connections={"crm": "https://crm.fake"})
    with use_transport(httpx2.MockTransport(away)), pytest.raises(TryLater) as missing:
        agent.permit(READ, assertion="a.b.c")
    assert missing.value.reason_code == "metadata_server_unavailable"


@pytest.mark.parametrize(
    "key", [{}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-384", "d": "x"}, {"kty": "EC", "crv": "P-256"}], ids=str
)
def test_a_key_that_cannot_sign_is_found_at_start(key: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="private P-256"):
        PrivateKeyJwt("a", key=key)


def test_a_bound_token_is_presented_with_a_proof_for_each_request(cab_fake: FakeBroker) -> None:
    cab_fake.permit(READ.action, effect="read")
    key = DpopKey.generate()
    agent = Agent(cab_fake.origin, ClientSecret("a", "s"), connections=cab_fake.connections, dpop=key)
    with agent.acting(READ.action, on="crm", identifier="opportunity/1", assertion=cab_fake.user("alice")) as http:
        assert http.permit.token_type == "DPoP"
        for path in ("/opportunities/1?x=1", "/opportunities/1"):
            http.get(path)
    first, second = (request.headers for request in cab_fake.requests)
    assert first["authorization"].startswith("DPoP ")
    proofs = [jwt.decode(one["dpop"], options={"verify_signature": False}) for one in (first, second)]
    assert {one["htu"] for one in proofs} == {"https://crm.fake/opportunities/1"}
    assert proofs[0]["jti"] != proofs[1]["jti"]


def test_both_halves_of_a_bound_token_fit_together(cab_fake: FakeBroker) -> None:
    cab_fake.permit(READ.action, effect="read")
    agent = Agent(cab_fake.origin, ClientSecret("a", "s"), connections=cab_fake.connections, dpop=DpopKey.generate())
    permit = agent.permit(READ, assertion=cab_fake.user("alice"))
    app = CabResource(
        lambda environ, start_response: [start_response("200 OK", []), b"{}"][1:],
        issuer=f"{cab_fake.origin}/oauth2",
        resource="https://crm.fake",
        rules={"GET /opportunities/{id}": covers(READ.action, "opportunity/{id}")},
        fetch=lambda url: cab_fake.handle_request(httpx2.Request("GET", url)).json(),
    )
    with httpx2.Client(transport=httpx2.WSGITransport(app), auth=permit.auth) as client:
        assert client.get("https://crm.fake/opportunities/1").status_code == 200
        assert client.get("https://crm.fake/opportunities/2").status_code == 403
    assert [one.status_code for one in map(_bare(app, permit), ("Bearer", "DPoP"))] == [401, 401]


def _bare(app: Any, permit: Permit) -> Any:
    def get(scheme: str) -> httpx2.Response:
        with httpx2.Client(transport=httpx2.WSGITransport(app)) as client:
            headers = {"Authorization": f"{scheme} {permit.reveal()}"}
            return client.get("https://crm.fake/opportunities/1", headers=headers)

    return get


async def test_nothing_that_holds_a_secret_shows_it_or_can_be_copied(cab_fake: FakeBroker) -> None:
    cab_fake.permit(READ.action, effect="read")
    jwk = new_key()
    agent = AsyncAgent(cab_fake.origin, PrivateKeyJwt("a", key=jwk), connections=cab_fake.connections)
    assertion = cab_fake.user("alice")
    permit = await agent.permit(READ, assertion=assertion)
    holders = {
        "x.y.canary": Secret("x.y.canary"),
        assertion.reveal(): assertion,
        permit.reveal(): permit,
        jwk["d"]: PrivateKeyJwt("a", key=jwk),
        "canary": ClientSecret("a", "canary"),
    }
    for secret, holder in holders.items():
        assert secret not in f"{holder!r} {holder} {permit.headers()} {assertion.as_header()}"
        for copied in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
            with pytest.raises(TypeError):
                copied(holder)
    await agent.aclose()


def test_the_request_to_another_agent_carries_its_assertion_and_does_not_show_it(cab_fake: FakeBroker) -> None:
    agent = cab_fake.agent("a", peers={"ops-bot": "https://ops.example"})
    with agent.to("ops-bot", assertion=cab_fake.user("alice")) as http:
        request = http.post("/look").request
    assertion = cab_fake.requests[0].headers["cab-assertion"]
    assert request.headers["cab-assertion"] == assertion
    assert assertion not in f"{request!r} {request.headers!r} {request.headers}"


def test_what_is_no_jwt_is_no_assertion() -> None:
    for text in ("", "a.b", "a.b.c.d", "a b.c.d", "a.b.c\n", "Bearer a.b.c"):
        with pytest.raises(ValueError, match="JWT"):
            Assertion(text)


async def test_a_metadata_server_gives_the_identity_that_proves_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local stack's own, over a socket: the agent sends its token for this broker's issuer, and no key."""
    email = "agent@demo-cab.iam.gserviceaccount.com"
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(400, json={"error": "invalid_request", "reason_code": "subject_token_invalid"})

    async with google_identity.serving(port=0, issuer="https://accounts.google.com", accounts={email: 0}) as listening:
        monkeypatch.setenv("GCE_METADATA_HOST", listening.metadata[email])
        agent = AsyncAgent("https://cab.fake", WorkloadIdentity(), connections={"crm": "https://crm.fake"})
        with use_transport(Mounted(answer)), pytest.raises(Misconfigured):
            await agent.permit(READ, assertion="a.b.c")
        await agent.aclose()
    form = dict(parse_qsl(seen[0].content.decode()))
    claims = jwt.decode(form["client_assertion"], options={"verify_signature": False})
    assert (claims["aud"], claims["email"]) == ("https://cab.fake/oauth2", email)


class Mounted(httpx2.AsyncBaseTransport):
    """A broker by a function; everything on this machine by its socket."""

    def __init__(self, broker: Callable[[httpx2.Request], httpx2.Response]) -> None:
        self._broker = broker
        self._sockets = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "127.0.0.1":
            return await self._sockets.handle_async_request(request)
        return self._broker(request)

    async def aclose(self) -> None:
        await self._sockets.aclose()

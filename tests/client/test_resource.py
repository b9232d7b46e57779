"""`CabResource` lets in what a token was made for and nothing else: each of a hundred small changes to the request is refused."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cab_client import ClientSecret, DpopKey, Intent
from cab_client.clients import Agent
from cab_client.resource import CabResource, Caller, IssuerUnavailable, TokenRejected, TokenVerifier, covers
from cab_client.testing import FakeBroker

RESOURCE = "https://crm.acme.example"
ISSUER = "https://cab.fake/oauth2"
RULES = {
    "GET /opportunities": covers("crm.opportunity.list", "opportunity/*", query=("account",)),
    "GET /opportunities/{id}": covers("crm.opportunity.read", "opportunity/{id}"),
    "PATCH /opportunities/{id}": covers(
        "crm.opportunity.update", "opportunity/{id}", body=("stage", "amount_cents", "hot")
    ),
    "DELETE /opportunities/{id}": covers("crm.opportunity.delete", "opportunity/{id}"),
    "POST /opportunities/{id}/notes": covers("crm.note.create", "opportunity/{id}", body=("text",)),
    "POST /tasks": covers("tracker.task.create", "task/*", body=("title", "priority"), defaults={"priority": "normal"}),
}
CHANGE: dict[str, str | int | bool | list[str]] = {"stage": "won", "amount_cents": 120000, "hot": True}
INTENT = Intent("crm.opportunity.update", on="crm", identifier="opportunity/0061", parameters=CHANGE)


@pytest.fixture
def broker() -> FakeBroker:
    fake = FakeBroker(connections={"crm": RESOURCE, "other": "https://erp.acme.example"})
    fake.permit("crm.opportunity.update", "crm.opportunity.delete", "crm.note.create", "tracker.task.create")
    fake.permit("crm.opportunity.list", "crm.opportunity.read", effect="read")
    return fake


def fetching(fake: FakeBroker) -> Any:
    def fetch(url: str) -> Any:
        return fake.handle_request(httpx2.Request("GET", url)).json()

    return fetch


def token_for(fake: FakeBroker, intent: Intent, dpop: DpopKey | None = None) -> str:
    with fake.installed():
        agent = Agent(fake.origin, ClientSecret("sales-assistant", "s"), connections=fake.connections, dpop=dpop)
        return agent.permit(intent, assertion=fake.user("alice")).reveal()


class Reached:
    """An application behind the gate, as ASGI and as WSGI: notes who came through with what."""

    def __init__(self, fake: FakeBroker, **options: Any) -> None:
        self.seen: list[tuple[Caller, bytes]] = []

        async def everything(request: Request) -> JSONResponse:
            self.seen.append((request.scope["cab"], await request.body()))
            return JSONResponse({"ok": True})

        def plain(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            self.seen.append((environ["cab"], environ["wsgi.input"].read()))
            start_response("200 OK", [])
            return [b"{}"]

        methods = ["GET", "PATCH", "DELETE", "POST", "PUT"]
        inner = Starlette(routes=[Route("/{path:path}", everything, methods=methods)])
        how = {"issuer": ISSUER, "resource": RESOURCE, "rules": RULES, "fetch": fetching(fake), **options}
        self.asgi = CabResource(inner, **how)
        self.wsgi = CabResource(plain, **how)

    def ask(self, kind: str, method: str, url: str, **options: Any) -> httpx2.Response:
        if kind == "wsgi":
            with httpx2.Client(transport=httpx2.WSGITransport(self.wsgi)) as client:
                return client.request(method, url, **options)
        import asyncio

        async def one() -> httpx2.Response:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.asgi)) as client:
                return await client.request(method, url, **options)

        return asyncio.run(one())


GOOD: dict[str, Any] = {"method": "PATCH", "url": f"{RESOURCE}/opportunities/0061", "json": CHANGE}


def changed(**changes: Any) -> dict[str, Any]:
    return GOOD | changes


def body(**changes: Any) -> dict[str, Any]:
    return changed(json=CHANGE | changes)


def without(name: str) -> dict[str, Any]:
    return changed(json={other: value for other, value in CHANGE.items() if other != name})


def raw(text: str | bytes, kind: str = "application/json") -> dict[str, Any]:
    content = text if isinstance(text, bytes) else text.encode()
    return {"method": "PATCH", "url": GOOD["url"], "content": content, "headers": {"Content-Type": kind}}


WRITTEN = json.dumps(CHANGE)
MUTATIONS: list[dict[str, Any]] = [
    # another thing
    *(
        changed(url=f"{RESOURCE}/opportunities/{other}")
        for other in ("0062", "61", "00610", "006", "0061%20", "*", "0061*", "..", "%2e%2e", "0061%2F", "0061;x", "0061%00", "ä")
    ),
    *(
        changed(url=f"{RESOURCE}{path}")
        for path in (
            "/opportunities/0061/",
            "//opportunities/0061",
            "/Opportunities/0061",
            "/opportunities/0061/notes",
            "/opportunities",
            "/opportunities/",
            "/",
            "/tasks",
            "/opportunities/0061%2Fnotes",
            "/api/opportunities/0061",
            "/opportunities/0061/../0062",
            "/health",
        )
    ),
    # another method
    *(changed(method=method) for method in ("GET", "DELETE", "POST", "PUT", "HEAD", "OPTIONS", "patch ", "TRACE", "LINK")),
    # another host
    *(
        changed(url=f"{origin}/opportunities/0061")
        for origin in (
            "https://erp.acme.example",
            "https://crm.acme.example:8443",
            "https://crm.acme.example.evil.example",
            "https://evil.example",
            "https://CRM.acme.example.",
            "https://127.0.0.1",
        )
    ),
    # another amount, another kind of value
    *(
        body(amount_cents=value)
        for value in (120001, 119999, 0, -120000, 120000.0, 120000.5, "120000", True, None, [120000], {"x": 120000}, 10**20)
    ),
    *(body(stage=value) for value in ("lost", "WON", "won ", " won", "", "wοn", "won\u0000", 1, None, ["won"], True)),
    *(body(hot=value) for value in (False, 1, 1.0, "true", None, ["x"], {"x": 1}, "True")),
    # a member too few or too many
    *(without(name) for name in CHANGE),
    *(
        body(**{name: "x"})
        for name in ("owner", "next_step", "Stage", "stage ", "amount", "", "__proto__", "id", "reason", "text", "task_id")
    ),
    changed(json={}),
    changed(json=[]),
    changed(json=[CHANGE]),
    changed(json=None),
    changed(json="won"),
    changed(json=7),
    # the same members written in ways that another reader takes otherwise
    raw(WRITTEN[:-1] + ', "stage": "lost"}'),
    raw('{"stage": "lost", ' + WRITTEN[1:]),
    raw(WRITTEN[:-1] + ', "stage": "won"}'),
    raw(WRITTEN + WRITTEN),
    raw(WRITTEN[:-1]),
    raw(WRITTEN, "application/x-www-form-urlencoded"),
    raw(WRITTEN, "text/plain"),
    raw(WRITTEN, ""),
    raw("stage=won&amount_cents=120000&hot=true", "application/x-www-form-urlencoded"),
    raw(WRITTEN.encode("utf-16")),
    raw(b"\xff" + WRITTEN.encode()),
    raw(WRITTEN.replace("120000", "1.2e5")),
    raw(WRITTEN.replace("120000", "NaN")),
    raw(""),
    raw("null"),
    raw("[" * 100_000),
    # a query that says more
    *(
        changed(url=f"{RESOURCE}/opportunities/0061?{query}")
        for query in ("stage=lost", "force=1", "amount_cents=1", "stage=won", "_method=DELETE", "x", "account=Acme")
    ),
    changed(headers={"Content-Encoding": "gzip"}),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_the_request_that_was_declared_gets_in(broker: FakeBroker, kind: str) -> None:
    reached = Reached(broker)
    token = token_for(broker, INTENT)
    answer = reached.ask(kind, **GOOD, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    ((caller, seen),) = reached.seen
    assert json.loads(seen) == CHANGE
    assert (caller.subject, caller.agent, caller.chain) == ("alice", "sales-assistant", ("sales-assistant",))
    assert caller.intent_hash == broker.claims(token)["intent_hash"]
    assert token not in repr(caller)


def test_there_are_a_hundred_of_them() -> None:
    assert len(MUTATIONS) >= 100


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
@pytest.mark.parametrize("number", range(len(MUTATIONS)))
def test_a_changed_request_is_refused_under_the_valid_token(broker: FakeBroker, kind: str, number: int) -> None:
    reached = Reached(broker)
    mutation = dict(MUTATIONS[number])
    headers = {**mutation.pop("headers", {}), "Authorization": f"Bearer {token_for(broker, INTENT)}"}
    try:
        answer = reached.ask(kind, **mutation, headers=headers)
    except httpx2.LocalProtocolError:
        return  # it cannot even be written
    assert answer.status_code in (400, 403, 415, 421)
    assert reached.seen == []


@pytest.mark.parametrize(
    "intent",
    [
        Intent("crm.opportunity.read", on="crm", identifier="opportunity/0061"),
        Intent("crm.opportunity.update", on="crm", identifier="opportunity/0061"),
        Intent("crm.opportunity.update", on="crm", identifier="opportunity/*", parameters=CHANGE),
        Intent(
            "crm.opportunity.update", on="crm", identifier="opportunity/0061", parameters={**CHANGE, "owner": "bob"}
        ),
    ],
)
def test_a_token_for_something_else_is_refused(broker: FakeBroker, intent: Intent) -> None:
    reached = Reached(broker)
    answer = reached.ask("asgi", **GOOD, headers={"Authorization": f"Bearer {token_for(broker, intent)}"})
    assert answer.status_code == 403
    assert "covers" not in answer.text
    assert "120000" not in answer.text
    assert reached.seen == []


@pytest.mark.parametrize(
    ("sent", "declared", "status"),
    [
        ({"title": "Call"}, {"title": "Call", "priority": "normal"}, 200),
        ({"title": "Call", "priority": "normal"}, {"title": "Call"}, 200),
        ({"title": "Call", "priority": "high"}, {"title": "Call"}, 403),
        ({"title": "Call"}, {"title": "Call", "priority": "high"}, 403),
    ],
)
def test_what_is_left_out_is_the_default_on_both_sides(
    broker: FakeBroker, sent: dict[str, str], declared: dict[str, Any], status: int
) -> None:
    intent = Intent("tracker.task.create", on="crm", identifier="task/*", parameters=declared)
    headers = {"Authorization": f"Bearer {token_for(broker, intent)}"}
    assert Reached(broker).ask("asgi", "POST", f"{RESOURCE}/tasks", json=sent, headers=headers).status_code == status


def test_a_filter_is_declared_too(broker: FakeBroker) -> None:
    intent = Intent("crm.opportunity.list", on="crm", identifier="opportunity/*", parameters={"account": "Acme"})
    headers = {"Authorization": f"Bearer {token_for(broker, intent)}"}
    asked = {query: Reached(broker).ask("asgi", "GET", f"{RESOURCE}/opportunities{query}", headers=headers).status_code
             for query in ("?account=Acme", "?account=Globex", "", "?account=Acme&account=Globex", "?account=Acme&x=1")}  # fmt: skip
    assert list(asked.values()) == [200, 403, 403, 403, 403]


# --- the token itself ---


def claims_of(broker: FakeBroker) -> dict[str, Any]:
    return broker.claims(token_for(broker, INTENT))


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "https://erp.acme.example"},
        {"aud": [RESOURCE]},
        {"aud": f"{RESOURCE}/"},
        {"iss": "https://evil.example/oauth2"},
        {"exp": 1},
        {"exp": None},
        {"sub": None},
        {"client_id": None},
        {"jti": None},
        {"cnf": {"jkt": "x"}},
        {"cnf": None},
        {"cnf": {}},
        {"nbf": 9_999_999_999},
    ],
    ids=str,
)
def test_a_token_with_another_claim_is_none(broker: FakeBroker, change: dict[str, Any]) -> None:
    claims = {name: value for name, value in (claims_of(broker) | change).items() if value is not None or name == "cnf"}
    answer = Reached(broker).ask("asgi", **GOOD, headers={"Authorization": f"Bearer {broker.sign(claims)}"})
    assert answer.status_code == 401
    assert "resource_metadata=" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("typ", ["JWT", "cab-assertion+jwt", "AT+JWT", "application/at+jwt"])
def test_another_kind_of_token_is_none(broker: FakeBroker, typ: str) -> None:
    token = broker.sign(claims_of(broker), typ=typ)
    assert Reached(broker).ask("asgi", **GOOD, headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_a_token_of_another_issuers_key_is_none(broker: FakeBroker) -> None:
    other = FakeBroker(connections={"crm": RESOURCE})
    other._jwk["kid"] = broker._jwk["kid"]
    token = other.sign(claims_of(broker))
    assert Reached(broker).ask("asgi", **GOOD, headers={"Authorization": f"Bearer {token}"}).status_code == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "DPoP {}", "Bearer {} x", "bearer  "])
def test_another_way_to_present_it_is_refused(broker: FakeBroker, header: str) -> None:
    headers = {"Authorization": header.format(token_for(broker, INTENT))}
    assert Reached(broker).ask("asgi", **GOOD, headers=headers).status_code == 401


def test_nobody_gets_in_without_a_token_but_to_what_is_public(broker: FakeBroker) -> None:
    reached = Reached(broker, public=("GET /health",), rules={})
    assert reached.ask("asgi", **GOOD).status_code == 401
    found = reached.ask("asgi", "GET", f"{RESOURCE}/.well-known/oauth-protected-resource").json()
    assert found == {
        "resource": RESOURCE,
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256"],
    }


def test_a_flood_of_unknown_keys_is_no_flood_of_fetches(broker: FakeBroker) -> None:
    fetched: list[str] = []

    def fetch(url: str) -> Any:
        fetched.append(url)
        return fetching(broker)(url)

    clock = [0.0]
    verifier = TokenVerifier(issuer=ISSUER, resource=RESOURCE, fetch=fetch, monotonic=lambda: clock[0])
    verifier.verify(token_for(broker, INTENT))
    stranger = FakeBroker(connections={"crm": RESOURCE}).sign(claims_of(broker))
    for _ in range(20):
        with pytest.raises(TokenRejected):
            verifier.verify(stranger)
    assert len(fetched) == 2
    clock[0] = 31
    with pytest.raises(TokenRejected):
        verifier.verify(stranger)
    assert len(fetched) == 4


def test_an_issuer_that_is_away_is_no_verdict(broker: FakeBroker) -> None:
    def fetch(url: str) -> Any:
        raise OSError

    verifier = TokenVerifier(issuer=ISSUER, resource=RESOURCE, fetch=fetch)
    with pytest.raises(IssuerUnavailable):
        verifier.verify(token_for(broker, INTENT))
    answer = Reached(broker, fetch=fetch).ask(
        "asgi", **GOOD, headers={"Authorization": f"Bearer {token_for(broker, INTENT)}"}
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


# --- bound tokens ---


def test_a_bound_token_needs_the_proof_of_its_key_for_this_request(broker: FakeBroker) -> None:
    key = DpopKey.generate()
    token = broker.sign(claims_of(broker) | {"cnf": {"jkt": key.thumbprint}})
    reached = Reached(broker)
    url = GOOD["url"]
    good = key.proof("PATCH", url, token=token)
    proofs = {
        "none": None,
        "another method": key.proof("GET", url, token=token),
        "another address": key.proof("PATCH", f"{RESOURCE}/opportunities/0062", token=token),
        "another token": key.proof("PATCH", url, token="x"),
        "no token": key.proof("PATCH", url),
        "another key": DpopKey.generate().proof("PATCH", url, token=token),
        "rubbish": "x.y.z",
    }
    for name, proof in proofs.items():
        headers = {"Authorization": f"DPoP {token}"} | ({"DPoP": proof} if proof else {})
        assert reached.ask("asgi", **GOOD, headers=headers).status_code == 401, name
    headers = {"Authorization": f"DPoP {token}", "DPoP": good}
    assert reached.ask("asgi", **GOOD, headers={**headers, "Authorization": f"Bearer {token}"}).status_code == 401
    assert reached.ask("asgi", **GOOD, headers=headers).status_code == 200
    assert reached.ask("asgi", **GOOD, headers=headers).status_code == 401  # a proof works once


def test_a_body_beyond_the_bound_is_not_read_into_memory(broker: FakeBroker) -> None:
    reached = Reached(broker, max_body=100)
    headers = {"Authorization": f"Bearer {token_for(broker, INTENT)}", "Content-Type": "application/json"}
    for kind in ("asgi", "wsgi"):
        answer = reached.ask(kind, "PATCH", GOOD["url"], content=b" " * 200, headers=headers)
        assert answer.status_code == 413
    environ = {"REQUEST_METHOD": "PATCH", "PATH_INFO": "/opportunities/0061", "CONTENT_LENGTH": "-1"}
    environ |= {"HTTP_HOST": "crm.acme.example", "HTTP_AUTHORIZATION": headers["Authorization"]}
    said: list[str] = []
    reached.wsgi({**environ, "wsgi.input": io.BytesIO(b"x" * 200)}, lambda line, *_: said.append(line))
    assert said == ["413 Refused"]


def test_a_route_that_is_none_is_a_mistake_at_start() -> None:
    for where in ("/opportunities", "get /x", "GET opportunities", "GET /x/{"):
        with pytest.raises(ValueError):  # noqa: PT011
            CabResource(None, issuer=ISSUER, resource=RESOURCE, rules={where: covers("a", "b")})

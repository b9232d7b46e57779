"""No input makes a service of Acme answer 500: odd paths, queries, headers and bodies at every endpoint."""

import json
from functools import cache
from typing import Any

import pytest
from examples.acme.services.warehouse import create_warehouse, run_query
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.dev.doubles.in_process import Client
from tests.examples.acme_in_process import ApiUnderTest, idp_client

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.strict_input import BadRequest

WAREHOUSE = "http://127.0.0.1:8084"
PATHS = {
    "idp": ("/authorize", "/login", "/logout", "/token", "/jwks.json", "/clients/x/jwks.json", "/_control/faults",
            "/_control/keys/rotate", "/_control/clock", "/_control/state"),
    "crm": ("/oauth/authorize", "/oauth/consent", "/oauth/token", "/oauth/revoke", "/oauth/userinfo",
            "/opportunities", "/opportunities/0061", "/opportunities/0061/notes", "/_control/ledger",
            "/_control/tokens/x", "/_control/withdraw", "/_control/clock", "/_control/faults"),
    "tracker": ("/tasks",),
    "warehouse": ("/query", "/queries"),
}  # fmt: skip


def _unreachable(_: str) -> Any:
    raise OSError


@cache
def service(name: str) -> tuple[Client, str]:
    """A client of the service and a token that opens its API."""
    if name == "idp":
        return idp_client(), "none"
    if name == "warehouse":
        app = create_warehouse(origin=WAREHOUSE, issuer="http://127.0.0.1:8080/oauth2", users={}, fetch=_unreachable)
        return Client(app, WAREHOUSE), "a.b.c"
    api = ApiUnderTest(name)
    return api.http, api.token("alice")


words = st.sampled_from(
    ["client_id", "cab", "acme-web", "redirect_uri", "scope", "openid", "code", "grant_type", "refresh_token",
     "authorization_code", "token", "request", "account", "alice", "title", "priority", "stage", "amount_cents",
     "text", "query", "kind", "status", "count", "advance_s", "since", "since=9", "max_age"]
)  # fmt: skip
texts = st.one_of(words, st.text(max_size=20))
pairs = st.dictionaries(texts, texts, max_size=6)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
bodies = st.one_of(
    st.binary(max_size=60).map(lambda body: ("application/x-www-form-urlencoded", body)),
    st.binary(max_size=60).map(lambda body: ("application/json", body)),
    json_values.map(lambda value: ("application/json", json.dumps(value).encode())),
    st.dictionaries(texts, json_values, max_size=5).map(lambda v: ("application/json", json.dumps(v).encode())),
)


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in PATHS.items() for path in paths])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_request_is_answered_with_a_server_error(name: str, path: str, data: st.DataObject) -> None:
    client, token = service(name)
    method = data.draw(st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD"]))
    content_type, body = data.draw(bodies)
    authorization = data.draw(
        st.one_of(
            st.just(f"Bearer {token}".encode()), st.binary(max_size=20).map(lambda raw: b"Basic " + raw.hex().encode())
        )
    )
    path += data.draw(st.sampled_from(["", "/", "/%00", "/%ff", "/..%2f"]))
    query = data.draw(pairs) if data.draw(st.booleans()) else {}
    client.cookies.clear()
    answer = client.request(
        method,
        path,
        params={key: value for key, value in query.items() if key.isprintable() and value.isprintable()},
        content=body,
        headers=[(b"content-type", content_type.encode()), (b"authorization", authorization)],
    )
    client.delete("/_control/faults")
    allowed = {503} if name == "warehouse" else set()
    assert answer.status_code < 500 or answer.status_code in allowed


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                ["SELECT", "*", "FROM", "deals_history", ",", "(", ")", "1", "x'ff'", "1e999", "owner", "UNION", "ALL",
                 "WITH", "RECURSIVE", "AS", "sqlite_master", ";", "--", "'", "sum", "CAST", "WHERE", "=", "?", ":a"]
            ),
            max_size=14,
        ).map(" ".join),
    )
)  # fmt: skip
def test_every_query_text_is_answered_or_refused_and_shows_own_rows_only(sql: str) -> None:
    try:
        answer = run_query(sql, "alice")
    except BadRequest:
        return
    text = json.dumps(answer, allow_nan=False)
    assert "bob" not in text
    assert "Soylent" not in text


def test_a_client_registered_with_an_odd_name_is_shown_escaped() -> None:
    from cab_dev.doubles.oauth_provider import create_provider_app, s256

    odd = RegisteredClient(client_id="odd", name="<img src=x>", redirect_uris=("http://127.0.0.1:1/cb",))
    app, _ = create_provider_app("acme-crm", issuer="http://127.0.0.1:9000", clients=[odd])
    query = {
        "response_type": "code",
        "client_id": "odd",
        "redirect_uri": "http://127.0.0.1:1/cb",
        "scope": "read",
        "code_challenge": s256("v" * 43),
        "code_challenge_method": "S256",
    }
    page = Client(app, "http://127.0.0.1:9000").get("/oauth/authorize", params=query)
    assert "<img" not in page.text
    assert "&lt;img src=x&gt;" in page.text

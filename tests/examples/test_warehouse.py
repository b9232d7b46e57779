"""The warehouse trusts the issuer's tokens as RFC 9068 says, runs SELECTs only, and shows own rows only."""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from examples.acme.services.warehouse import NAMED_QUERIES, create_warehouse
from examples.acme.warehouse_users import warehouse_users
from tests.dev.doubles.in_process import Client

from cab.domain.identifiers import subject_key
from cab_client import DpopKey, Secret
from cab_client.resource import Caller, metadata_url

ISSUER = "http://127.0.0.1:8080/oauth2"
ORIGIN = "http://127.0.0.1:8084"
KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())
USERS = {"key-of-alice": "alice", "key-of-bob": "bob", "key-of-carol": "carol"}
INTENT = {"type": "cab_action", "actions": ["warehouse.query.run"], "locations": [ORIGIN], "identifier": "query/*"}


class IssuerUnderTest:
    """The issuer's two documents; counts fetches and can be down."""

    def __init__(self) -> None:
        self.key = KEY
        self.kid = "k1"
        self.fetches = 0
        self.down = False
        self.said_issuer = ISSUER

    def fetch(self, url: str) -> Any:
        self.fetches += 1
        if self.down:
            raise OSError
        if url == "http://127.0.0.1:8080/.well-known/oauth-authorization-server/oauth2":
            return {"issuer": self.said_issuer, "jwks_uri": f"{ISSUER}/jwks.json"}
        assert url == f"{ISSUER}/jwks.json"
        public = jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": self.kid, "alg": "ES256", "use": "sig"}]}


def token(*, key: Any = KEY, algorithm: str = "ES256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": ORIGIN,
        "sub": "key-of-alice",
        "client_id": "sales-assistant",
        "scope": "query.run",
        "iat": now,
        "exp": now + 300,
        "jti": "j1",
        "authorization_details": [INTENT],
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"typ": "at+jwt", "kid": "k1", **(header or {})})


def warehouse(issuer: IssuerUnderTest | None = None) -> Client:
    fetch = (issuer or IssuerUnderTest()).fetch
    return Client(create_warehouse(origin=ORIGIN, issuer=ISSUER, users=USERS, fetch=fetch), ORIGIN)


def query(client: Client, sql: str, bearer: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {bearer or token()}"}
    return client.post("/query", json={"query": sql}, headers=headers)


def test_each_user_sees_own_rows_only() -> None:
    client = warehouse()
    of_alice = query(client, "SELECT DISTINCT owner FROM deals_history", token(sub="key-of-alice"))
    of_bob = query(client, "SELECT DISTINCT owner FROM deals_history", token(sub="key-of-bob"))
    assert of_alice.json() == {"columns": ["owner"], "rows": [["alice"]], "truncated": False}
    assert of_bob.json()["rows"] == [["bob"]]


def test_what_came_of_each_token_is_told_to_who_made_it() -> None:
    told: list[tuple[str, int | None]] = []

    class Noting:
        def tell(self, token: Secret, caller: Caller, status: int | None) -> None:
            told.append((token.reveal(), status))

        def flush(self, timeout_s: float = 5.0) -> bool:
            return True

    issuer = IssuerUnderTest()
    app = create_warehouse(origin=ORIGIN, issuer=ISSUER, users=USERS, fetch=issuer.fetch, reporter=Noting())
    client, good = Client(app, ORIGIN), token()
    for sql in ("SELECT owner FROM deals_history", "DROP TABLE deals_history"):
        query(client, sql, good)
    query(client, "SELECT owner FROM deals_history", token(sub="nobody"))
    query(client, "SELECT owner FROM deals_history", token(key=STRANGER))
    elsewhere = token(authorization_details=[INTENT | {"identifier": "query/other"}])
    query(client, "SELECT owner FROM deals_history", elsewhere)
    assert [status for _, status in told] == [200, 400, 403, 403]
    assert (told[0][0], told[3][0]) == (good, elsewhere)


def test_a_user_without_deals_sees_no_rows() -> None:
    answer = query(warehouse(), "SELECT * FROM deals_history", token(sub="key-of-carol"))
    assert (answer.status_code, answer.json()["rows"]) == (200, [])


@pytest.mark.parametrize("subject", ["alice", "nobody", "' OR '1'='1"])
def test_a_subject_that_was_never_provisioned_is_refused(subject: str) -> None:
    answer = query(warehouse(), "SELECT * FROM deals_history", token(sub=subject))
    assert (answer.status_code, answer.json()["error"]) == (403, "unknown_user")


def test_the_people_of_acme_are_provisioned_by_the_brokers_subject_key() -> None:
    users = warehouse_users("http://127.0.0.1:8081")
    assert users[subject_key("acme", "http://127.0.0.1:8081", "8f2c61b07a5e")] == "alice"
    assert set(users.values()) == {"alice", "bob", "carol"}
    assert warehouse_users("http://127.0.0.1:8082").keys() & users.keys() == {
        f"{login}@acme.example" for login in ("alice", "bob", "carol")
    }


def test_named_queries_run_and_are_listed() -> None:
    client = warehouse()
    assert client.get("/queries").json() == {"queries": NAMED_QUERIES}
    for name in NAMED_QUERIES:
        assert query(client, name).status_code == 200
    assert query(client, "acme_history").json()["rows"] == [["2025-Q1", 98_000], ["2025-Q3", 121_000]]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE deals_history",
        "DELETE FROM deals_history",
        "UPDATE deals_history SET owner='bob'",
        "INSERT INTO deals_history VALUES ('bob','x','x',1)",
        "SELECT 1; SELECT 2",
        "SELECT * FROM sqlite_master",
        "ATTACH DATABASE '/etc/passwd' AS x",
        "PRAGMA table_info(deals_history)",
        "SELECT load_extension('x')",
        "SELECT randomblob(1000000000)",
        "SELECT * FROM pragma_database_list",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT COUNT(*) FROM c",
        "nonsense",
        ";",
        "SELECT * FROM deals_history WHERE account = ?",
        "SELECT '\x00'",
        "SELECT x'ff'",
        "SELECT CAST(x'ff' AS TEXT)",
        "SELECT 1e999",
    ],
)
def test_only_one_plain_select_is_possible(sql: str) -> None:
    answer = query(warehouse(), sql)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_query")


def test_many_rows_are_cut_off_and_it_is_said() -> None:
    cross = "SELECT a.amount FROM deals_history a, deals_history b, deals_history c, deals_history d"
    answer = query(warehouse(), cross).json()
    assert (len(answer["rows"]), answer["truncated"]) == (200, True)


@pytest.mark.parametrize(
    "bearer",
    [
        lambda: token(header={"typ": "JWT"}),
        lambda: token(header={"typ": "cab-assertion+jwt"}),
        lambda: token(iss=f"{ISSUER}/"),
        lambda: token(iss="http://127.0.0.1:8080/edge"),
        lambda: token(aud=f"{ORIGIN}/"),
        lambda: token(aud=[ORIGIN]),
        lambda: token(aud=[ORIGIN, "http://127.0.0.1:8082"]),
        lambda: token(aud=None),
        lambda: token(exp=int(time.time()) - 60),
        lambda: token(exp=None),
        lambda: token(iat=int(time.time()) + 600),
        lambda: token(sub=None),
        lambda: token(client_id=None),
        lambda: token(jti=None),
        lambda: token(key=STRANGER),
        lambda: token(header={"kid": "k2"}),
        lambda: token(header={"kid": ""}),
        lambda: token(key="x" * 64, algorithm="HS256"),
        lambda: token(cnf={"jkt": "abc"}),
        lambda: jwt.encode({"sub": "alice"}, "", algorithm="none", headers={"typ": "at+jwt", "kid": "k1"}),
        lambda: token() + "x",
        lambda: "a.b.c",
        lambda: "",
    ],
)
def test_a_token_that_is_not_the_issuers_for_us_now_is_refused(bearer: Callable[[], str]) -> None:
    headers = {"Authorization": f"Bearer {bearer()}"}
    answer = warehouse().post("/query", json={"query": "acme_history"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_token"')


@pytest.mark.parametrize("scope", ["", "query", "other query.running", None, ["query.run"]])
def test_the_scope_is_needed(scope: Any) -> None:
    answer = query(warehouse(), "acme_history", token(scope=scope))
    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    "details",
    [
        None,
        [],
        "warehouse.query.run",
        [7],
        [{**INTENT, "actions": ["crm.opportunity.read"]}],
        [{**INTENT, "actions": "warehouse.query.run"}],
        [{**INTENT, "locations": ["http://127.0.0.1:8082"]}],
        [{**INTENT, "type": "other"}],
        [{**INTENT, "parameters": {"query": "revenue_by_account"}}],
        [{**INTENT, "identifier": None}],
    ],
)
def test_the_token_must_be_issued_for_this_action_here_and_this_query(details: Any) -> None:
    answer = query(warehouse(), "acme_history", token(authorization_details=details))
    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_authorization")


@pytest.mark.parametrize(
    ("intent", "sql", "runs"),
    [
        ({"identifier": "query/*"}, "acme_history", True),
        ({"identifier": "query/*"}, "SELECT 1", True),
        ({"identifier": "query/acme_history"}, "acme_history", True),
        ({"identifier": "query/acme_history"}, "revenue_by_account", False),
        ({"identifier": "query/acme_history"}, "SELECT 1", False),
        ({"identifier": "query/SELECT 1"}, "SELECT 1", False),
        ({"identifier": "query/own", "parameters": {"query": "SELECT 1"}}, "SELECT 1", True),
        ({"identifier": "query/own", "parameters": {"query": "SELECT 1"}}, "SELECT 2", False),
        ({"identifier": "query/*", "parameters": {"query": "SELECT 1"}}, "SELECT 2", False),
        ({"identifier": "query/acme_history", "parameters": {"query": "SELECT 1"}}, "acme_history", False),
    ],
)
def test_only_the_query_that_the_intent_covers_runs(intent: dict[str, Any], sql: str, runs: bool) -> None:
    bearer = token(authorization_details=[{**INTENT, **intent}])
    assert (query(warehouse(), sql, bearer).status_code == 200) is runs


# --- tokens bound to a key --------------------------------------------------------------------------------------------

HOLDER = ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: Any) -> dict[str, Any]:
    return dict(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True))


def proof_for(bearer: str, *, key: Any = HOLDER, header: dict[str, Any] | None = None, **changes: Any) -> str:
    ath = base64.urlsafe_b64encode(hashlib.sha256(bearer.encode()).digest()).rstrip(b"=").decode()
    claims = {
        "jti": secrets.token_hex(8),
        "htm": "POST",
        "htu": f"{ORIGIN}/query",
        "iat": int(time.time()),
        "ath": ath,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {"typ": "dpop+jwt", "jwk": public_jwk(HOLDER), **(header or {})}
    return jwt.encode(claims, key, algorithm="ES256", headers=headers)


def bound_token(**changes: Any) -> str:
    return token(**{"cnf": {"jkt": DpopKey(HOLDER).thumbprint}, **changes})


def call(client: Client, *headers: tuple[str, str]) -> int:
    return int(client.post("/query", json={"query": "acme_history"}, headers=list(headers)).status_code)


def test_a_bound_token_works_with_a_proof_of_its_key_once() -> None:
    client, bound = warehouse(), bound_token()
    headers = (("Authorization", f"DPoP {bound}"), ("DPoP", proof_for(bound)))
    assert call(client, *headers) == 200
    assert call(client, *headers) == 401


@pytest.mark.parametrize(
    "proof",
    [
        lambda bound: proof_for(bound, key=STRANGER),
        lambda bound: proof_for(bound, key=STRANGER, header={"jwk": public_jwk(STRANGER)}),
        lambda bound: proof_for(bound, header={"typ": "JWT"}),
        lambda bound: proof_for(bound, header={"jwk": None}),
        lambda bound: proof_for(bound, header={"jwk": {**public_jwk(HOLDER), "d": "x"}}),
        lambda bound: proof_for(bound, htm="GET"),
        lambda bound: proof_for(bound, htu=f"{ORIGIN}/other"),
        lambda bound: proof_for(bound, htu=f"{ORIGIN}/query?x=1"),
        lambda bound: proof_for(bound, ath=None),
        lambda bound: proof_for(bound_token(jti="other")),
        lambda bound: proof_for(bound, iat=int(time.time()) - 90),
        lambda bound: proof_for(bound, iat=int(time.time()) + 60),
        lambda bound: proof_for(bound, iat="now"),
        lambda bound: proof_for(bound, jti=None),
        lambda bound: "a.b.c",
        lambda bound: "",
    ],
)
def test_a_bound_token_without_its_own_fresh_proof_is_refused(proof: Callable[[str], str]) -> None:
    bound = bound_token()
    assert call(warehouse(), ("Authorization", f"DPoP {bound}"), ("DPoP", proof(bound))) == 401


def test_a_bound_token_is_no_bearer_token_and_a_bearer_token_is_not_bound() -> None:
    bound, free = bound_token(), token()
    assert call(warehouse(), ("Authorization", f"Bearer {bound}")) == 401
    assert call(warehouse(), ("Authorization", f"Bearer {bound}"), ("DPoP", proof_for(bound))) == 401
    assert call(warehouse(), ("Authorization", f"DPoP {bound}")) == 401
    two = (("DPoP", proof_for(bound)), ("DPoP", proof_for(bound)))
    assert call(warehouse(), ("Authorization", f"DPoP {bound}"), *two) == 401
    assert call(warehouse(), ("Authorization", f"DPoP {free}"), ("DPoP", proof_for(free))) == 401


def test_keys_are_fetched_once_and_unknown_ones_do_not_flood_the_issuer() -> None:
    issuer = IssuerUnderTest()
    client = warehouse(issuer)
    for number in range(20):
        query(client, "acme_history")
        query(client, "acme_history", token(header={"kid": f"unknown-{number}"}))
    assert issuer.fetches == 2


def test_an_issuer_that_is_down_or_lies_about_its_name_gives_503_and_recovers() -> None:
    issuer = IssuerUnderTest()
    client = warehouse(issuer)
    issuer.down = True
    answer = query(client, "acme_history")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    issuer.down, issuer.said_issuer = False, f"{ISSUER}/"
    assert query(client, "acme_history").status_code == 503
    issuer.said_issuer = ISSUER
    assert query(client, "acme_history").status_code == 200


@pytest.mark.parametrize("body", [{}, {"query": ""}, {"query": 7}, {"query": "x", "y": 1}, {"query": "x" * 2001}])
def test_the_body_has_one_query(body: dict[str, Any]) -> None:
    answer = warehouse().post("/query", json=body, headers={"Authorization": f"Bearer {token()}"})
    assert answer.status_code == 400


def test_the_request_log_shows_the_user_and_the_chain_but_no_token() -> None:
    client = warehouse()
    bearer = token(txn="txn-1", act={"sub": "sales-assistant"})
    query(client, "acme_history", bearer)
    log = client.get("/_control/requests")
    assert log.json() == {
        "requests": [
            {"user": "alice", "client_id": "sales-assistant", "act": {"sub": "sales-assistant"}, "txn": "txn-1"}
        ]
    }
    assert bearer not in json.dumps(log.json())


def test_the_metadata_address_puts_the_path_of_the_issuer_last() -> None:
    assert metadata_url("https://a.example/oauth2") == (
        "https://a.example/.well-known/oauth-authorization-server/oauth2"
    )
    assert metadata_url("https://a.example") == "https://a.example/.well-known/oauth-authorization-server"

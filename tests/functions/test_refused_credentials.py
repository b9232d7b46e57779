"""Why a credential was refused: for those who may read the audit, and nobody else."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.cli.test_explain import ACME, ENVIRONMENT
from tests.functions.test_client_authentication import BAD, basic
from tests.functions.test_dpop import proof
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, claims_of, ec_key, present, rsa_key
from tests.support.world import (
    EDGE,
    JWT_BEARER_ASSERTION,
    REFRESH_GRANTS,
    SECRET_OF_READER,
    START,
    STS,
    TOKEN_EXCHANGE,
    TOKEN_TYPE,
    World,
    intent,
)

from cab_ops.cli.explain.command import explain_command

WRONG_TOKENS: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "https://other.test"},
    "no audience": {"aud": ABSENT},
    "another issuer": {"iss": "https://evil.test"},
    "ended": {"iat": START - 200, "exp": START - 100},
    "living too long": {"exp": START + 4000},
    "of the future": {"iat": START + 100},
    "not valid yet": {"nbf": START + 100},
    "a stranger's key": {"key": ec_key("evil")},
    "an unknown key": {"header": {"kid": "unknown"}},
    "of another type": {"header": {"typ": "at+jwt"}},
    "alg none": {"header": {"alg": "none"}},
    "a key of its own": {"header": {"jwk": ec_key("evil").jwk}},
}


class OneRow:
    """The audit table with a single event in it, as `--event` asks for it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def ask(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return [{**json.loads(self._data), "event_json": self._data.decode()}]


def explained(world: World, monkeypatch: pytest.MonkeyPatch, name: str = "exchange_token") -> str:
    """What `cab explain --event` prints of the last event: the line with the cause."""
    data = world.cloud.audit_logs[name].messages[-1].data
    monkeypatch.setattr("cab_ops.cli.audit.access.tables_of", lambda *_: nullcontext(OneRow(data)))
    arguments = ["--event", json.loads(data)["event_id"], "--project", "p", "--config", str(ACME), "--json"]
    result = CliRunner().invoke(explain_command, arguments, env=ENVIRONMENT)
    assert result.exit_code == 0, result.output
    notes: list[str] = json.loads(result.stdout)["notes"]
    return notes[0]


def later(world: World, changes: dict[str, Any]) -> dict[str, Any]:
    """Instants were written for the start; and five refusals of strangers a minute are listed, so each has a minute."""
    world.advance(61)
    moved = world.now - START
    return {k: v + moved if k in ("iat", "exp", "nbf") and isinstance(v, int) else v for k, v in changes.items()}


def without_txn(answer: Answer) -> str:
    return json.dumps([answer.status, {name: value for name, value in answer.json.items() if name != "txn"}])


WRONG_CLIENTS = (
    "audience of the other endpoint family",
    "no audience",
    "another subject than issuer",
    "no issuer",
    "an unknown client",
    "no exp",
    "ended",
    "living longer than five minutes",
    "issued in the future",
    "not valid yet",
    "no jti",
    "a stranger's key under the client's kid",
    "alg none",
    "an unknown kid",
    "an access token's type",
)


async def test_explain_names_a_different_cause_for_each_kind_of_wrong_client_assertion(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, causes = set(), []
    for kind in WRONG_CLIENTS:
        wrong = world.credentials("assistant", **later(world, BAD[kind]))
        answers.add(without_txn(await world.post("/oauth2/token", {"grant_type": TOKEN_EXCHANGE} | wrong)))
        causes.append(explained(world, monkeypatch))
    assert len(answers) == 1
    assert len(set(causes)) == len(WRONG_CLIENTS), causes


async def test_explain_names_a_different_cause_for_each_kind_of_wrong_subject_token(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge_key = await world.signing_key("edge")
    right = claims_of(await world.assertion())
    answers, causes = set(), []
    for changes in WRONG_TOKENS.values():
        wrong = later(world, changes)
        moved = {"iat": world.now, "exp": world.now + 200}
        header = {"typ": "cab-assertion+jwt", "kid": edge_key.kid} | wrong.pop("header", {})
        token = wrong.pop("key", edge_key).sign(present(right | moved | wrong), header)
        answer = await world.exchange(subject_token=token)
        answers.add(without_txn(answer).replace("subject_token_expired", "").replace("has expired", "is not valid"))
        causes.append(explained(world, monkeypatch))
        assert token not in world.cloud.audit_logs["exchange_token"].messages[-1].data.decode()
    assert len(set(causes)) == len(WRONG_TOKENS), causes
    assert len({answer.replace("subject_token_invalid", "") for answer in answers}) == 1


ACTOR_KINDS = (*WRONG_CLIENTS[:10], *WRONG_CLIENTS[11:])


async def test_explain_names_a_different_cause_for_each_kind_of_wrong_actor_token(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, causes = set(), []
    for kind in ACTOR_KINDS:
        actor = world.client_assertion("assistant", STS, **later(world, BAD[kind]))
        answer = await world.exchange(actor_token=actor, actor_token_type=TOKEN_TYPE + "jwt")
        assert answer.json["reason_code"] == "actor_token_invalid", kind
        answers.add(without_txn(answer))
        causes.append(explained(world, monkeypatch))
    assert len(answers) == 1
    assert len(set(causes)) == len(ACTOR_KINDS), causes


async def test_explain_says_that_an_actor_token_is_good_and_of_another_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = world.client_assertion("reader", STS)
    await world.exchange(actor_token=actor, actor_token_type=TOKEN_TYPE + "jwt")
    assert "actor" in explained(world, monkeypatch)
    assert world.events()[-1].reason_code == "actor_mismatch"


async def test_explain_names_a_different_cause_for_each_kind_of_wrong_id_jag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(World(scratch=tmp_path).write_id_jag_deployment(), scratch=tmp_path)
    used = world.id_jag(jti="used")
    assert (await world.redeem(used, authorization_details=[intent()])).status == 200
    answers, causes = set(), []
    for wrong in (
        used,
        world.id_jag(agent="legacy"),
        world.id_jag(typ="JWT"),
        world.id_jag(aud="https://other.test"),
        world.id_jag(aud=ABSENT),
        world.id_jag(iss="https://evil.test"),
        world.id_jag(iss=ABSENT),
        world.id_jag(exp=world.now - 100, iat=world.now - 300),
        world.id_jag(iat=world.now + 200),
        world.id_jag(jti=ABSENT),
        world.id_jag(key=ec_key("evil")),
        world.id_jag(cnf={"x5t#S256": "A" * 43}),
        world.id_jag(authorization_details="none"),
        world.id_jag(resource=7),
        "a.b.c",
    ):
        answer = await world.redeem(wrong, authorization_details=[intent()])
        answers.add(without_txn(answer))
        causes.append(explained(world, monkeypatch))
        assert wrong not in world.cloud.audit_logs["exchange_token"].messages[-1].data.decode()
    assert len(answers) == 1
    assert len(set(causes)) == len(causes), causes


async def test_explain_names_a_different_cause_for_each_kind_of_wrong_dpop_proof(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = proof(world)
    assert (await world.exchange(headers=used)).status == 200
    key = ec_key("dpop")
    claims = {"htm": "POST", "htu": f"{STS}/token", "iat": world.now, "jti": "j"}
    header = {"typ": "dpop+jwt", "jwk": key.jwk, "kid": ABSENT}
    answers, causes = set(), []
    for wrong in (
        used,
        proof(world, htm="GET"),
        proof(world, at="https://evil.test/oauth2/token"),
        proof(world, iat=world.now - 100),
        proof(world, jti=ABSENT),
        [("DPoP", ec_key("another").sign(claims, header))],
        [("DPoP", key.sign(claims, header | {"typ": "JWT"}))],
        [("DPoP", key.sign(claims, header | {"alg": "none"}))],
        [("DPoP", "x")],
    ):
        answers.add(without_txn(await world.exchange(headers=wrong)))
        causes.append(explained(world, monkeypatch))
    assert len(answers) == 1
    assert len(set(causes)) == len(causes), causes


async def test_explain_says_that_a_token_is_bound_to_a_key_that_was_not_proven(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = world.mint_form()
    minted = await world.post("/edge/token", form, headers=proof(world, at=f"{EDGE}/token"))
    await world.exchange(subject_token=minted.json["access_token"])
    assert "bound to a key that was not proven" in explained(world, monkeypatch)


async def test_explain_names_a_different_cause_for_each_kind_of_wrong_client_secret(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "wrong-" + SECRET_OF_READER
    causes = []
    for headers in (
        basic("reader", secret),
        basic("nobody", secret),
        basic("assistant", secret),
        [("Authorization", "Basic !")],
        [],
    ):
        world.advance(61)
        await world.post("/oauth2/token", {"grant_type": TOKEN_EXCHANGE}, headers=headers)
        causes.append(explained(world, monkeypatch))
        assert secret not in world.cloud.audit_logs["exchange_token"].messages[-1].data.decode()
    assert len(set(causes)) == len(causes), causes


async def test_explain_names_a_different_cause_for_each_kind_of_wrong_workload_identity(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = "100000000000000000002"
    answers, causes = set(), []
    for changes in (
        {"sub": "100000000000000000666"},
        {"sub": ABSENT},
        {"audience": "https://other.test"},
        {"iss": "https://evil.test"},
        {"iat": START - 3700, "exp": START - 100},
        {"exp": START + 90_000},
        {"iat": START + 100},
        {"key": rsa_key("another")},
    ):
        identity: dict[str, Any] = {"audience": STS, "sub": workload} | later(world, changes)
        proven = {"client_assertion_type": JWT_BEARER_ASSERTION, "client_assertion": world.google_token(**identity)}
        answers.add(without_txn(await world.post("/oauth2/token", {"grant_type": TOKEN_EXCHANGE} | proven)))
        causes.append(explained(world, monkeypatch))
    assert len(answers) == 1
    assert len(set(causes)) == len(causes), causes


async def test_a_refused_id_token_leaves_its_cause_and_claims_marked_as_unverified(world: World) -> None:
    await world.mint(subject_token=world.id_token(iss="https://evil.test/\n", azp="some-client"))
    event = json.loads(world.cloud.audit_logs["mint_assertion"].messages[-1].data)
    assert event["why"] == "iss is missing or malformed"
    assert event["unverified"] == {"issuer": "https://evil.test/\\n", "client_id": "some-client"}


async def test_claims_of_a_refused_token_are_bounded_and_hold_no_token(world: World) -> None:
    token = "ghp_" + "a1B2" * 9
    await world.mint(subject_token=world.id_token(iss=token, azp="x" * 5000))
    event = json.loads(world.cloud.audit_logs["mint_assertion"].messages[-1].data)
    assert event["unverified"]["issuer"].startswith("[token sha-256:")
    assert len(event["unverified"]["client_id"]) == 200


async def test_a_refused_credential_leaves_one_log_line_as_rare_as_its_event(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = world.credentials("assistant", aud="https://other.test")
    await world.post("/oauth2/token", {"grant_type": TOKEN_EXCHANGE} | wrong)
    (line,) = [vars(it)["said"] for it in caplog.records if it.message == "credential refused"]
    assert (line["why"], line["unverified"]["client_id"]) == ("aud is not us", "assistant")
    for _ in range(20):
        await world.post("/oauth2/token", {"grant_type": TOKEN_EXCHANGE} | wrong)
    assert caplog.messages.count("credential refused") == 5


async def test_token_like_text_in_an_intent_is_published_as_its_fingerprint(world: World) -> None:
    token = "xoxb-" + "1234567890-abcdefghij"
    await world.exchange(intent(reason=f"use {token} now", identifier=f"query/{token}"))
    data = world.cloud.audit_logs["exchange_token"].messages[-1].data.decode()
    assert token not in data
    assert "use [token sha-256:" in json.loads(data)["intent"]["reason"]


@pytest.mark.parametrize(
    ("path", "event_type"),
    [
        ("/grants/token", "grant.served"),
        ("/grants/revoke", "grant.revoked"),
        ("/grants/allow", "grant.allowed"),
        ("/grants/move", "grant.moved"),
        ("/grants/sweep", "grants.swept"),
        ("/grants/due", "grant.visited"),
    ],
)
async def test_a_refused_caller_of_a_grants_route_is_recorded_as_that_route(
    world: World, path: str, event_type: str
) -> None:
    await world.call_service(path, {}, world.google_token(REFRESH_GRANTS))
    event = json.loads(world.cloud.audit_logs["refresh_grants"].messages[-1].data)
    assert (event["event_type"], event["why"]) == (event_type, "the account may not call this")

"""Grants without a consent screen, through the functions as they are deployed."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from tests.support.asgi import Answer
from tests.support.jose import Key, ec_key
from tests.support.web import Sent, json_answer
from tests.support.world import ACCOUNTS, CRM, IDP, REFRESH_GRANTS, STS, World, intent

from cab.domain.grants import grant_id
from cab.domain.identifiers import subject_key
from cab.ports import HttpAnswer
from cab_ops.forget_person import ForgetPerson

READ_DEAL = intent("crm.deal.read", "deal/7")
ALICE = subject_key("acme", IDP, "alice")
ASSERTION_KEY = ec_key("crm-assertion")
PROVIDER = "    base_scopes: [offline]\n"
CONNECTION = "    client_id: cab\n    client_secret: {secret: cab-provider-crm, version: 1}\n"


class TrustingProvider:
    """A token endpoint that believes what it is sent, and remembers it."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.scope: str | None = None

    async def __call__(self, sent: Sent) -> HttpAnswer:
        form = dict(parse_qsl(sent.body.decode()))
        self.forms.append(form)
        answer = {"access_token": f"trusted-{len(self.forms)}", "token_type": "Bearer", "expires_in": 3600}
        return json_answer(answer | {"scope": self.scope or form["scope"]})


def claims_of(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


def _config(world: World, provider: str, connection: str) -> Path:
    def changed(text: str) -> str:
        assert text.count(PROVIDER) == text.count(CONNECTION) == 1
        return text.replace(PROVIDER, PROVIDER + provider).replace(CONNECTION, connection)

    return world.write_policies(None, connections=changed)


async def bearer(world: World) -> TrustingProvider:
    config = _config(
        world,
        "    grant_kinds: [jwt_bearer]\n",
        "    grant_kind: jwt_bearer\n    client_id: cab\n    assertion_key: {secret: cab-assertion-crm}\n"
        f"    user_map: {{{ALICE}: alice@crm.test}}\n",
    )
    provider = await _start(world, config)
    await world.cloud.vault.create("cab-assertion-crm")
    await world.cloud.vault.add("cab-assertion-crm", json.dumps(ASSERTION_KEY.private_jwk).encode())
    return provider


async def exchange(world: World) -> TrustingProvider:
    config = _config(
        world,
        "    grant_kinds: [token_exchange]\n    exchange_audience: //iam.test/pool\n    subject_token_audience: cab-at-crm\n",
        "    grant_kind: token_exchange\n",
    )
    return await _start(world, config)


async def id_jag(world: World) -> TrustingProvider:
    config = _config(
        world,
        "    issuer: https://login.crm.test\n    grant_kinds: [id_jag]\n",
        f"    grant_kind: id_jag\n    user_map: {{{ALICE}: alice@crm.test}}\n{CONNECTION}",
    )
    return await _start(world, config)


async def _start(world: World, config: Path) -> TrustingProvider:
    await world.set_up()
    world.environment["CAB_CONFIG_DIR"] = str(config)
    provider = TrustingProvider()
    world.web.hosts[CRM] = provider
    return provider


async def read_deal(world: World, user: str = "alice", agent: str = "assistant") -> Answer:
    return await world.exchange(READ_DEAL, agent=agent, subject_token=await world.assertion(agent, user=user))


EVERY_KIND = pytest.mark.parametrize("make", [bearer, exchange, id_jag], ids=["jwt_bearer", "token_exchange", "id_jag"])


@EVERY_KIND
async def test_the_first_exchange_of_a_user_brings_a_token_and_revocation_ends_it(world: World, make: Any) -> None:
    provider = await make(world)
    first = await read_deal(world)
    assert (first.status, first.json["access_token"], first.json["scope"]) == (
        200,
        "trusted-1",
        "deal.read contact.read",
    )
    assert (await read_deal(world)).json["access_token"] == "trusted-1"
    name = grant_id("acme", ALICE, "crm")
    identity = world.google_token(REFRESH_GRANTS, email=f"connect-account@{ACCOUNTS}")
    revoked = await world.call_service("/grants/revoke", {"grant_id": name, "cause": "user", "txn": "t"}, identity)
    assert revoked.json["revoked"] == [{"grant_id": name, "connection": "crm", "upstream": False}]
    after = await read_deal(world)
    assert (after.status, after.json["reason_code"]) == (400, "grant_revoked")
    assert "interaction_uri" not in after.json
    assert len(provider.forms) == 1
    events = [event.event_type.value for event in world.events("refresh_grants")]
    assert events == ["grant.connected", "grant.revoked"]


@EVERY_KIND
async def test_the_organisation_alone_can_allow_again_what_was_ended(world: World, make: Any) -> None:
    await make(world)
    await read_deal(world)
    named = {"grant_id": grant_id("acme", ALICE, "crm"), "cause": "back from leave", "txn": "t"}
    operator = world.google_token(REFRESH_GRANTS, email=f"connect-account@{ACCOUNTS}")
    assert (await world.call_service("/grants/allow", named, operator)).json == {"allowed": False}
    assert (await world.call_service("/grants/revoke", named, operator)).status == 200
    agents_side = world.google_token(REFRESH_GRANTS, email=f"exchange-token@{ACCOUNTS}")
    assert (await world.call_service("/grants/allow", named, agents_side)).status == 401
    assert (await world.call_service("/grants/allow", named, operator)).json == {"allowed": True}
    again = await read_deal(world)
    assert (again.status, again.json["access_token"]) == (200, "trusted-2")  # not the one of before
    last = world.events("refresh_grants")[-1]
    assert last.grant is not None
    assert (last.event_type.value, last.grant.cause) == ("grant.connected", "back from leave")


@EVERY_KIND
async def test_a_token_of_a_forgotten_grant_is_not_handed_out_for_the_next_one(world: World, make: Any) -> None:
    """Neither by who remembers it, nor once another instance has made the next grant."""
    await make(world)
    assert (await read_deal(world)).json["access_token"] == "trusted-1"
    operator = world.google_token(REFRESH_GRANTS, email=f"connect-account@{ACCOUNTS}")
    named = {"grant_id": grant_id("acme", ALICE, "crm"), "cause": "erasure", "txn": "t"}
    assert (await world.call_service("/grants/revoke", named, operator)).status == 200
    stores = world.cloud.documents
    forgetting = ForgetPerson(guards=stores["guards"], approvals=stores["approvals"], grants=stores["grants"])
    assert (await forgetting("acme", ALICE)).deleted["grants"] == 1
    world.advance(10)

    that_remembers = world.function("exchange_token")
    world.restart("exchange_token")
    assert (await read_deal(world)).json["access_token"] == "trusted-2"
    world._apps["exchange_token"] = that_remembers
    assert (await read_deal(world)).json["access_token"] != "trusted-1"


async def test_what_a_user_consented_to_only_the_user_can_connect_again(world: World) -> None:
    name = await world.connect("alice", "wiki", "page.read")
    named = {"grant_id": name, "cause": "x", "txn": "t"}
    operator = world.google_token(REFRESH_GRANTS, email=f"connect-account@{ACCOUNTS}")
    refused = await world.call_service("/grants/allow", named, operator)
    assert refused.json["reason_code"] == "target_not_allowed"
    unknown = await world.call_service("/grants/allow", named | {"grant_id": grant_id("acme", ALICE, "crm")}, operator)
    assert unknown.json["reason_code"] == "grant_missing"


@pytest.mark.parametrize(
    ("make", "issuer", "audience"),
    [(bearer, "cab", f"{CRM}/token"), (id_jag, STS, "https://login.crm.test")],
    ids=["jwt_bearer", "id_jag"],
)
async def test_the_upstream_login_comes_from_the_map_and_nobody_else_gets_in(
    world: World, make: Any, issuer: str, audience: str
) -> None:
    provider = await make(world)
    await read_deal(world)
    claims = claims_of(provider.forms[0]["assertion"])
    assert (claims["iss"], claims["sub"], claims["aud"]) == (issuer, "alice@crm.test", audience)
    unmapped = await read_deal(world, user="bob")
    assert (unmapped.status, unmapped.json["reason_code"]) == (400, "grant_missing")
    assert "interaction_uri" not in unmapped.json
    assert len(provider.forms) == 1


async def test_a_token_exchange_presents_our_word_for_the_user_to_that_provider_only(world: World) -> None:
    provider = await exchange(world)
    assert (await read_deal(world)).status == 200
    (form,) = provider.forms
    world.secrets_seen.add(form["subject_token"])
    claims = claims_of(form["subject_token"])
    assert claims.pop("jti")
    assert claims == {
        "iss": STS,
        "aud": "cab-at-crm",
        "sub": ALICE,
        "groups": ["staff"],
        "txn": claims["txn"],
        "iat": world.now,
        "exp": world.now + 300,
    }
    for place in ("subject_token", "client_assertion"):  # it is neither an assertion nor a client of ours
        misplaced: dict[str, Any] = {place: form["subject_token"]}
        refused = await world.exchange(READ_DEAL, **misplaced)
        assert refused.status in (400, 401)
    assert (await world.introspect(form["subject_token"])).json == {"active": False}


@EVERY_KIND
async def test_wider_tokens_than_the_action_needs_are_not_handed_out(world: World, make: Any) -> None:
    provider = await make(world)
    provider.scope = "deal.read contact.read deal.write"
    assert (await read_deal(world)).json["reason_code"] == "scope_not_grantable"


def _for_crm(world: World, key: Key, of: str, **changes: Any) -> str:
    said = claims_of(of)
    claims = {
        "iss": STS,
        "aud": "cab-at-crm",
        "sub": said["sub"],
        "groups": said["groups"],
        "txn": said["txn"],
        "iat": world.now,
        "exp": world.now + 300,
        "jti": "j",
    }
    return key.sign(claims | changes, {"typ": "JWT"})


async def test_refresh_grants_takes_no_foreign_token_for_the_provider(world: World) -> None:
    provider = await exchange(world)
    key = await world.signing_key("sts")
    alice, bob = await world.assertion(user="alice"), await world.assertion(user="bob")
    identity = world.google_token(REFRESH_GRANTS, email=f"exchange-token@{ACCOUNTS}")

    async def ask(subject_token: str | None) -> Answer:
        asked = {"subject_assertion": alice, "connection": "crm", "scopes": ["deal.read"], "txn": "t"}
        more = {} if subject_token is None else {"provider_subject_token": subject_token}
        return await world.call_service("/grants/token", asked | more, identity)

    foreign = {
        "none": None,
        "the assertion": alice,
        "bob's": _for_crm(world, key, bob),
        "bob's, in alice's exchange": _for_crm(world, key, alice, sub=subject_key("acme", IDP, "bob")),
        "alice's, for another system": _for_crm(world, key, alice, aud="elsewhere"),
        "alice's, by another key": _for_crm(world, ec_key("another"), alice),
    }
    causes = []
    for what, subject_token in foreign.items():
        answer = await ask(subject_token)
        assert answer.json["reason_code"] == "subject_token_invalid", what
        causes.append(world.events("refresh_grants")[-1].why)
    assert causes == [
        "not a compact JWS",
        "no such key of this issuer",
        "its claims are not of this user and exchange",
        "its claims are not of this user and exchange",
        "aud is not us",
        "no such key of this issuer",
    ]
    assert provider.forms == []
    assert (await ask(_for_crm(world, key, alice))).status == 200

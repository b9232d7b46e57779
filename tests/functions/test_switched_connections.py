"""A connection whose users consented and do not any more, or the other way round: what becomes of the grants of before."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from tests.support.asgi import Answer
from tests.support.web import Sent, json_answer
from tests.support.world import ACCOUNTS, CRM, DEPLOYMENT, IDP, ORIGIN, REFRESH_GRANTS, World, intent

from cab.domain.grants import Grant, GrantStatus, grant_id
from cab.domain.identifiers import subject_key
from cab.ports import HttpAnswer
from cab.stores.grants import Grants

READ_DEAL = intent("crm.deal.read", "deal/7")
ALICE = subject_key("acme", IDP, "alice")
NAME = grant_id("acme", ALICE, "crm")
SCOPES = ("deal.read", "contact.read", "deal.write", "offline")
PROVIDER = "    base_scopes: [offline]\n"
CLIENT = "    client_id: cab\n    client_secret: {secret: cab-provider-crm, version: 1}\n"
KINDS = {
    "jwt_bearer": ("", f"    assertion_key: {{secret: cab-assertion-crm}}\n    user_map: {{{ALICE}: alice}}\n"),
    "token_exchange": ("    exchange_audience: pool\n    subject_token_audience: cab-at-crm\n", ""),
    "id_jag": ("    issuer: https://login.crm.test\n", f"    user_map: {{{ALICE}: alice}}\n"),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


class Crm:
    """The token and the revocation endpoint of a system that takes either way. `revoked` are the tokens it was told of."""

    def __init__(self) -> None:
        self.revoked: list[str] = []
        self.down = False
        self.issued = 0

    async def __call__(self, sent: Sent) -> HttpAnswer:
        form = dict(parse_qsl(sent.body.decode()))
        if sent.path == "/revoke":
            self.revoked.append(form["token"])
            return json_answer({}, 503 if self.down else 200)
        self.issued += 1
        answer = {"access_token": f"token-{self.issued}", "expires_in": 3600, "scope": form["scope"]}
        consented = form["grant_type"] == "refresh_token"
        return json_answer(answer | ({"refresh_token": f"crm-refresh-{self.issued}"} if consented else {}))


@pytest.fixture
def crm(world: World) -> Crm:
    system = Crm()
    world.web.hosts[CRM] = system
    return system


async def switch(world: World, kind: str | None, **facts: str) -> None:
    """The next revision: the connection is of this kind; None: users consent."""
    await world.set_up()
    facts_of_provider = "".join(f"    {name}: {value}\n" for name, value in facts.items())
    provider, connection = ("", CLIENT)
    if kind is not None:
        provider, own = KINDS[kind]
        provider += f"    grant_kinds: [{kind}]\n"
        connection = f"    grant_kind: {kind}\n{CLIENT}{own}"
        if "cab-assertion-crm" not in world.cloud.vault._secrets:
            await world.cloud.vault.create("cab-assertion-crm")
            key = (await world.signing_key("edge")).private_jwk
            await world.cloud.vault.add("cab-assertion-crm", json.dumps(key).encode())

    def changed(text: str) -> str:
        return text.replace(PROVIDER, PROVIDER + provider + facts_of_provider).replace(CLIENT, connection)

    folder = world.write_policies(None, connections=changed) if kind or facts else DEPLOYMENT
    for function in ("exchange_token", "refresh_grants"):
        world.restart(function, CAB_CONFIG_DIR=str(folder))


async def read_deal(world: World) -> Answer:
    return await world.exchange(READ_DEAL, subject_token=await world.assertion(user="alice"))


async def ask_directly(world: World) -> Answer:
    """Past exchange_token, as an older or a broken one would."""
    asked = {"subject_assertion": await world.assertion(user="alice"), "connection": "crm", "scopes": ["deal.read"]}
    identity = world.google_token(REFRESH_GRANTS, email=f"exchange-token@{ACCOUNTS}")
    return await world.call_service("/grants/token", asked | {"txn": "t"}, identity)


async def operator(world: World, path: str) -> Answer:
    identity = world.google_token(REFRESH_GRANTS, email=f"connect-account@{ACCOUNTS}")
    return await world.call_service(path, {"grant_id": NAME, "cause": "asked for", "txn": "t"}, identity)


async def visit(world: World) -> Answer:
    """What the scheduler causes for a grant that is due."""
    identity = world.google_token(REFRESH_GRANTS, email=f"pubsub-push@{ACCOUNTS}")
    body = {"message": {"data": base64.b64encode(NAME.encode()).decode()}}
    return await world.call_service("/grants/due", body, identity)


async def a_minute_later(world: World) -> Answer:
    world.advance(61)
    return await visit(world)


async def grant(world: World) -> Grant:
    stored = await Grants(world.cloud.documents["grants"]).read(NAME)
    assert stored is not None
    return stored.grant


def payloads(world: World) -> list[bytes]:
    return [payload for payload in world.cloud.vault._secrets.get(f"cab-grant-{NAME}", []) if payload is not None]


def causes(world: World) -> list[tuple[str, Any, Any]]:
    return [
        (event.event_type.value, event.grant.cause, event.grant.upstream_revoked)
        for event in world.events("refresh_grants")
        if event.grant is not None
    ]


# --- the organisation approved, now users consent ---


@EVERY_KIND
async def test_what_the_organisation_approved_is_no_consent(world: World, crm: Crm, kind: str) -> None:
    await switch(world, kind)
    assert (await read_deal(world)).status == 200
    await switch(world, None)
    for answer in (await read_deal(world), await ask_directly(world)):
        assert answer.json["reason_code"] == "grant_missing"
        assert answer.json["interaction_uri"] == f"{ORIGIN}/connect?connection=crm"
    assert crm.issued == 1


async def test_the_sweep_leaves_a_grant_without_tokens_alone(world: World, crm: Crm) -> None:
    await switch(world, "id_jag")
    await read_deal(world)
    await switch(world, None, keepalive_s="3600")
    world.advance(7200)
    await world.set_grant(NAME, due_at=world.clock.now())
    assert (await visit(world)).json == {"visited": True}
    assert ((await grant(world)).status, (await grant(world)).due_at) == (GrantStatus.ACTIVE, None)
    assert (crm.issued, crm.revoked) == (1, [])


# --- users consented, now the organisation approves ---


async def consented(world: World, crm: Crm) -> None:
    """Alice's grant, refreshed once: `crm-refresh-1` is the token that works."""
    await world.connect("alice", "crm", *SCOPES)
    assert (await read_deal(world)).status == 200
    assert crm.issued == 1


@EVERY_KIND
async def test_the_tokens_of_a_consent_end_when_the_organisation_approves(world: World, crm: Crm, kind: str) -> None:
    await consented(world, crm)
    await switch(world, kind)
    first = await read_deal(world)
    assert (first.status, first.json["access_token"]) == (200, "token-2")
    await a_minute_later(world)
    assert crm.revoked == ["crm-refresh-1"]
    now = await grant(world)
    assert (now.status, now.keeps_tokens, now.scopes, now.upstream_account) == (GrantStatus.ACTIVE, False, [], None)
    assert causes(world)[-2:] == [
        ("grant.revoked", "replaced by trust", True),
        ("grant.connected", "approved by the organisation", None),
    ]
    assert (await read_deal(world)).status == 200  # for the user nothing has ended
    await a_minute_later(world)
    assert payloads(world) == []
    assert ((await grant(world)).due_at, crm.revoked) == (None, ["crm-refresh-1"])


async def test_tokens_of_another_system_are_destroyed_and_never_shown_to_the_one_that_took_its_place(
    world: World, crm: Crm
) -> None:
    await consented(world, crm)
    await switch(world, "id_jag")
    await world.set_grant(NAME, provider="former-crm", due_at=world.clock.now())
    await visit(world)
    assert ("grant.revoked", "replaced by trust", False) in causes(world)
    await a_minute_later(world)
    assert (payloads(world), crm.revoked) == ([], [])


async def test_a_grant_that_would_idle_out_is_put_away_without_being_used(world: World, crm: Crm) -> None:
    await consented(world, crm)
    await switch(world, "id_jag")
    await world.set_grant(NAME, due_at=world.clock.now())
    await visit(world)
    assert (crm.issued, crm.revoked, (await grant(world)).keeps_tokens) == (1, ["crm-refresh-1"], False)


async def test_a_provider_that_cannot_be_reached_is_asked_again_and_not_for_ever(world: World, crm: Crm) -> None:
    await consented(world, crm)
    await switch(world, "id_jag")
    crm.down = True
    assert (await read_deal(world)).status == 200
    for _ in range(8):
        assert (await a_minute_later(world)).status == 503
        assert (await grant(world)).keeps_tokens
        assert (await visit(world)).json == {"visited": True}  # not due yet: a redelivery asks nobody
    await a_minute_later(world)
    assert len(crm.revoked) == 9
    assert not (await grant(world)).keeps_tokens
    assert ("grant.revoked", "replaced by trust", False) in causes(world)


async def test_an_operator_can_end_such_a_grant_at_any_time(world: World, crm: Crm) -> None:
    await consented(world, crm)
    await switch(world, "id_jag")
    assert (await operator(world, "/grants/revoke")).json["revoked"][0]["upstream"] is True
    assert crm.revoked == ["crm-refresh-1"]
    assert (await read_deal(world)).json["reason_code"] == "grant_revoked"
    assert (await operator(world, "/grants/allow")).json["reason_code"] == "grant_revoked"  # tokens are still stored
    await a_minute_later(world)
    assert payloads(world) == []
    assert (await operator(world, "/grants/allow")).json == {"allowed": True}
    assert (await read_deal(world)).status == 200


async def test_what_was_put_away_is_destroyed_also_when_the_grant_is_ended_before(world: World, crm: Crm) -> None:
    await consented(world, crm)
    await switch(world, "id_jag")
    await read_deal(world)
    await a_minute_later(world)
    assert payloads(world) != []
    assert (await operator(world, "/grants/revoke")).status == 200
    assert (await operator(world, "/grants/allow")).json["reason_code"] == "grant_revoked"
    await a_minute_later(world)
    assert (payloads(world), crm.revoked) == ([], ["crm-refresh-1"])


async def test_a_token_set_that_a_paused_refresh_stores_late_is_revoked_too(world: World, crm: Crm) -> None:
    await consented(world, crm)
    await switch(world, "id_jag")
    await read_deal(world)
    stored = json.loads(payloads(world)[-1])
    await a_minute_later(world)
    late = {"access_token": "late", "refresh_token": "late-refresh"}
    stored["response"] = base64.b64encode(json.dumps(late).encode()).decode()
    await world.cloud.vault.add(f"cab-grant-{NAME}", json.dumps(stored).encode())
    await a_minute_later(world)
    assert (crm.revoked, payloads(world)) == (["crm-refresh-1", "late-refresh"], [])


async def test_a_damaged_grant_is_not_allowed_again_before_its_tokens_are_ended(world: World, crm: Crm) -> None:
    await consented(world, crm)
    await switch(world, "id_jag")
    await world.set_grant(NAME, status="quarantined")
    assert (await operator(world, "/grants/allow")).json["reason_code"] == "grant_revoked"
    assert (await read_deal(world)).json["reason_code"] == "grant_revoked"
    assert (await operator(world, "/grants/revoke")).status == 200
    await a_minute_later(world)
    assert (await operator(world, "/grants/allow")).json == {"allowed": True}


async def test_switching_back_asks_for_a_new_consent(world: World, crm: Crm) -> None:
    await consented(world, crm)
    await switch(world, "id_jag")
    await read_deal(world)
    await a_minute_later(world)
    await switch(world, None)
    assert (await read_deal(world)).json["reason_code"] == "grant_missing"

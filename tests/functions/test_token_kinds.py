"""Every kind of token at every place a token can be put: only the diagonal passes (security.md T5, X1; RFC 8725 3.11, 3.12)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.jose import ec_key
from tests.support.world import (
    ACCOUNTS,
    EDGE,
    GLOBEX_IDP,
    GLOBEX_KEY,
    IDP,
    INGEST_AUDIT,
    JWT_BEARER_ASSERTION,
    REFRESH_GRANTS,
    SPIFFE,
    SPIFFE_KEY,
    STS,
    TOKEN_TYPE,
    WAREHOUSE,
    World,
    intent,
)

Maker = Callable[[World], Awaitable[str]]
Place = Callable[[World, str, Maker], Awaitable[int]]


# --- kinds ---


async def id_token(world: World) -> str:
    return world.id_token()


async def id_token_of_the_other_tenant(world: World) -> str:
    return world.id_token(key=GLOBEX_KEY, iss=GLOBEX_IDP, aud="web-at-globex")


async def id_token_for_the_broker_itself(world: World) -> str:
    return world.id_token(aud="cab")


async def idp_access_token(world: World) -> str:
    return world.id_token(header={"typ": "at+jwt"}, aud=STS, client_id="assistant", jti="j")


async def edge_assertion(world: World) -> str:
    return await world.assertion("assistant")


async def sts_assertion(world: World) -> str:
    return str(
        (await world.delegate(await world.assertion("researcher"), "researcher", "assistant")).json["access_token"]
    )


async def assertion_of_the_other_tenant(world: World) -> str:
    return await world.globex_assertion()


async def broker_jwt(world: World) -> str:
    return str((await world.exchange()).json["access_token"])


async def client_assertion_of_agent(world: World) -> str:
    return world.client_assertion("assistant", STS)


async def client_assertion_of_front_end(world: World) -> str:
    return world.client_assertion("web", EDGE)


async def client_assertion_of_agent_for_the_edge(world: World) -> str:
    return world.client_assertion("assistant", EDGE)


async def google_token_of_agent(world: World) -> str:
    return world.google_token(STS, sub="100000000000000000002")


async def google_token_of_front_end(world: World) -> str:
    return world.google_token(EDGE, sub="100000000000000000001")


async def google_token_for_refresh_grants(world: World) -> str:
    return world.google_token(REFRESH_GRANTS, email=f"exchange-token@{ACCOUNTS}")


async def google_token_for_ingest_audit(world: World) -> str:
    return world.google_token(INGEST_AUDIT, email=f"pubsub-push@{ACCOUNTS}")


async def federated_token(world: World) -> str:
    claims = {"iss": SPIFFE, "sub": "spiffe://acme.test/pod", "aud": STS, "iat": world.now, "exp": world.now + 600}
    return SPIFFE_KEY.sign(claims)


async def id_jag_of_the_idp(world: World) -> str:
    return world.id_jag()


async def our_word_for_a_provider(world: World) -> str:
    """What exchange_token signs for a connection of kind token_exchange; `aud` is the worst that a provider could be called."""
    return await _of_our_sts(world, "JWT", groups=["staff"])


async def our_id_jag_for_a_provider(world: World) -> str:
    """What exchange_token signs for a connection of kind id_jag, as if that provider's issuer were ourselves."""
    return await _of_our_sts(world, "oauth-id-jag+jwt", client_id="assistant", resource=WAREHOUSE)


async def _of_our_sts(world: World, typ: str, **claims: Any) -> str:
    standard = {
        "iss": STS,
        "aud": STS,
        "sub": "alice",
        "txn": "t",
        "iat": world.now,
        "exp": world.now + 300,
        "jti": "j",
    }
    return (await world.signing_key("sts")).sign(standard | claims, {"typ": typ})


async def logout_token(world: World) -> str:
    return world.id_token(header={"typ": "logout+jwt"}, events={"x": {}}, sid="s")


async def security_event(world: World) -> str:
    return world.id_token(header={"typ": "secevent+jwt"}, events={"x": {}})


async def dpop_proof(world: World) -> str:
    key = ec_key("dpop")
    claims = {"htm": "POST", "htu": f"{STS}/token", "iat": world.now, "jti": "j"}
    return key.sign(claims, {"typ": "dpop+jwt", "jwk": key.jwk})


async def token_of_another_issuer(world: World) -> str:
    key = ec_key("evil")
    claims = {"iss": "https://evil.test", "sub": "x", "aud": STS, "iat": world.now, "exp": world.now + 60, "jti": "j"}
    return key.sign(claims, {"typ": "cab-assertion+jwt"})


async def unsigned(world: World) -> str:
    return (await world.assertion()).rpartition(".")[0] + "."


async def opaque(_: World) -> str:
    return "crm-access-token-0123456789"


KINDS: list[Maker] = [
    id_token,
    id_token_of_the_other_tenant,
    id_token_for_the_broker_itself,
    idp_access_token,
    edge_assertion,
    sts_assertion,
    assertion_of_the_other_tenant,
    broker_jwt,
    client_assertion_of_agent,
    client_assertion_of_front_end,
    client_assertion_of_agent_for_the_edge,
    google_token_of_agent,
    google_token_of_front_end,
    google_token_for_refresh_grants,
    google_token_for_ingest_audit,
    federated_token,
    id_jag_of_the_idp,
    our_word_for_a_provider,
    our_id_jag_for_a_provider,
    logout_token,
    security_event,
    dpop_proof,
    token_of_another_issuer,
    unsigned,
    opaque,
]


# --- places ---


async def as_login(world: World, token: str, _: Maker) -> int:
    return (await world.mint(subject_token=token)).status


async def as_subject(world: World, token: str, _: Maker) -> int:
    return (await world.exchange(subject_token=token)).status


async def as_subject_to_hand_on(world: World, token: str, _: Maker) -> int:
    return (await world.delegate(token, "assistant", "researcher")).status


async def as_id_jag(world: World, token: str, _: Maker) -> int:
    return (await world.redeem(token, authorization_details=[intent(identifier="query/q1")])).status


async def as_actor(world: World, token: str, _: Maker) -> int:
    return (await world.exchange(actor_token=token, actor_token_type=TOKEN_TYPE + "jwt")).status


async def as_client_at_the_edge(world: World, token: str, kind: Maker) -> int:
    login = world.id_token(aud="kiosk-at-idp") if kind is google_token_of_front_end else world.id_token()
    form = world.mint_form(subject_token=login)
    return await _as_client(world, "/edge/token", form, token)


async def as_client_for_a_token(world: World, token: str, kind: Maker) -> int:
    workloads: dict[Maker, str] = {google_token_of_agent: "workload", federated_token: "pod"}
    agent = workloads.get(kind, "assistant")
    form = await world.exchange_form(agent="assistant", subject_token=await world.assertion(agent))
    return await _as_client(world, "/oauth2/token", form, token)


async def as_client_that_introspects(world: World, token: str, _: Maker) -> int:
    return await _as_client(world, "/oauth2/introspect", {"token": "unknown"}, token)


async def as_client_that_revokes(world: World, token: str, _: Maker) -> int:
    return await _as_client(world, "/oauth2/revoke", {"token": "unknown"}, token)


async def _as_client(world: World, path: str, form: dict[str, Any], token: str) -> int:
    proof = {"client_assertion": token, "client_assertion_type": JWT_BEARER_ASSERTION}
    return (await world.post(path, form | proof)).status


async def as_bearer_token(world: World, token: str, _: Maker) -> int:
    """In the Authorization header of every OAuth endpoint: nobody may authenticate so."""
    statuses = set()
    for path in ("/edge/token", "/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"):
        form = {"token": "unknown", "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}
        statuses.add((await world.post(path, form, headers=[("Authorization", f"Bearer {token}")])).status)
    return max(statuses) if statuses == {401} else 200


async def as_active_token(world: World, token: str, _: Maker) -> int:
    return 200 if (await world.introspect(token)).json["active"] else 400


async def as_caller_of_refresh_grants(world: World, token: str, _: Maker) -> int:
    body = {"subject_assertion": await world.assertion(), "connection": "crm", "scopes": ["deal.read"], "txn": "t"}
    return 401 if (await world.call_service("/grants/token", body, token)).status == 401 else 200


async def as_assertion_of_refresh_grants(world: World, token: str, _: Maker) -> int:
    caller = await google_token_for_refresh_grants(world)
    body = {"subject_assertion": token, "connection": "crm", "scopes": ["deal.read"], "txn": "t"}
    answer = await world.call_service("/grants/token", body, caller)
    return 200 if answer.json["reason_code"] == "grant_missing" else 400


async def as_caller_of_ingest_audit(world: World, token: str, _: Maker) -> int:
    answer = await world.request(
        "POST", "/", function="ingest_audit", headers=[("Authorization", f"Bearer {token}")], body=b"{}"
    )
    return 401 if answer.status == 401 else 200


PLACES: list[Place] = [
    as_login,
    as_subject,
    as_subject_to_hand_on,
    as_id_jag,
    as_actor,
    as_client_at_the_edge,
    as_client_for_a_token,
    as_client_that_introspects,
    as_client_that_revokes,
    as_bearer_token,
    as_active_token,
    as_caller_of_refresh_grants,
    as_assertion_of_refresh_grants,
    as_caller_of_ingest_audit,
]

AGENTS_PROOFS = {as_client_for_a_token, as_client_that_introspects, as_client_that_revokes}
DIAGONAL: dict[Maker, set[Place]] = {
    id_token: {as_login},
    edge_assertion: {as_subject, as_subject_to_hand_on, as_assertion_of_refresh_grants},
    # handed on by `researcher`, so it cannot go back there; the grants of its user are served with it
    sts_assertion: {as_subject, as_assertion_of_refresh_grants},
    # refresh_grants serves every tenant, each its own users; crm is not globex's
    broker_jwt: {as_active_token},
    client_assertion_of_agent: {as_actor, *AGENTS_PROOFS},
    client_assertion_of_front_end: {as_client_at_the_edge},
    google_token_of_agent: {*AGENTS_PROOFS},
    google_token_of_front_end: {as_client_at_the_edge},
    google_token_for_refresh_grants: {as_caller_of_refresh_grants},
    google_token_for_ingest_audit: {as_caller_of_ingest_audit},
    federated_token: {*AGENTS_PROOFS},
    id_jag_of_the_idp: {as_id_jag},
}


@pytest.fixture(scope="module")
def accepting_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One broker for all pairs, with every door open that there is."""
    scratch = tmp_path_factory.mktemp("kinds")
    return World(World(scratch=scratch).write_id_jag_deployment(), scratch=scratch)


def named(function: Any) -> str:
    return str(function.__name__)


@pytest.mark.requirement("RFC8725-3.11-1")
@pytest.mark.requirement("RFC8725-3.12-1")
@pytest.mark.parametrize("place", PLACES, ids=named)
@pytest.mark.parametrize("kind", KINDS, ids=named)
async def test_a_token_passes_only_where_its_kind_belongs(accepting_world: World, kind: Maker, place: Place) -> None:
    world = accepting_world
    status = await place(world, await kind(world), kind)
    assert (status == 200) == (place in DIAGONAL.get(kind, set())), f"answered {status}"


def test_every_place_takes_some_kind_but_the_one_that_takes_none() -> None:
    taken = set().union(*DIAGONAL.values())
    assert set(PLACES) - taken == {as_bearer_token}


def test_the_idp_and_the_broker_share_no_issuer() -> None:
    assert len({IDP, EDGE, STS, GLOBEX_IDP, SPIFFE}) == 5

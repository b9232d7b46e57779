"""Discovery documents and key sets: public, cacheable, and never without the keys that verify (contract.md, "One origin")."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.jose import claims_of, header_of
from tests.support.world import STS, WRITE, Answer, World, deployment, task

from cab.protocol import metadata
from cab.stores.signing_keys import Issuer

DOCUMENTS = sorted(metadata.METADATA_PATHS)
KEY_SETS = ["/oauth2/jwks.json", "/edge/jwks.json"]


async def get(world: World, path: str, method: str = "GET") -> Answer:
    return await world.request(method, path, function="publish_metadata")


@pytest.mark.requirement("RFC8414-3-1")
@pytest.mark.requirement("RFC8414-3.3-1")
@pytest.mark.parametrize("path", DOCUMENTS)
async def test_every_path_answers_the_same_document(world: World, path: str) -> None:
    answer = await get(world, path)
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "public, max-age=300"
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.txn
    assert answer.json == metadata.document(deployment())
    assert answer.json["issuer"] == STS


@pytest.mark.requirement("RFC8414-2-2")
async def test_every_url_of_the_document_that_is_ours_answers(world: World) -> None:
    document = (await get(world, DOCUMENTS[0])).json
    origin = STS.removesuffix("/oauth2")
    for name in ("jwks_uri", "authorization_details_types_metadata_endpoint"):
        assert (await get(world, document[name].removeprefix(origin))).status == 200
    for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint"):
        answer = await world.request("POST", document[name].removeprefix(origin))
        assert answer.json["reason_code"] == "unsupported_media_type"


async def test_every_grant_type_of_the_document_is_known_at_the_token_endpoint(world: World) -> None:
    document = (await get(world, DOCUMENTS[0])).json
    for grant_type in document["grant_types_supported"]:
        answer = await world.post("/oauth2/token", {"grant_type": grant_type} | world.credentials("assistant"))
        assert answer.json["reason_code"] == "parameter_missing"


@pytest.mark.requirement("RFC7517-4-1")
@pytest.mark.requirement("RFC7517-9.2-1")
@pytest.mark.parametrize("path", KEY_SETS)
async def test_a_key_set_holds_public_signature_keys_and_nothing_else(world: World, path: str) -> None:
    answer = await get(world, path)
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "public, max-age=300"
    (key,) = answer.json["keys"]
    assert key == {
        "kty": "EC",
        "crv": "P-256",
        "x": key["x"],
        "y": key["y"],
        "kid": key["kid"],
        "use": "sig",
        "alg": "ES256",
    }


async def test_the_types_of_details_are_described_by_json_schema(world: World) -> None:
    described = (await get(world, "/oauth2/authorization-details-types")).json
    assert described.keys() == {"cab_action", "cab_task"}
    for kind in described.values():
        assert kind["schema"]["additionalProperties"] is False
    assert set(described["cab_action"]["schema"]["required"]) == {"type", "actions", "locations", "identifier"}


@pytest.mark.parametrize("path", [*DOCUMENTS, *KEY_SETS])
async def test_only_reading_is_answered(world: World, path: str) -> None:
    assert (await get(world, path, "HEAD")).status == 200
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = await get(world, path, method)
        assert answer.refusal == (405, "invalid_request", "method_not_allowed")
        assert answer.header("allow") == "GET, HEAD"
        assert answer.txn == answer.json["txn"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/.well-known",
        "/.well-known/openid-configuration/",
        "/.well-known/openid-configuration/edge",
        "/.well-known/oauth-authorization-server/oauth2/x",
        "/edge/.well-known/openid-configuration",
        "/oauth2/jwks",
        "/oauth2/jwks.json/",
        "/tools/call",
        "/mcp",
        "/../etc/passwd",
    ],
)
async def test_what_is_not_published_is_404(world: World, path: str) -> None:
    answer = await get(world, path)
    assert answer.refusal == (404, "invalid_request", "not_found")
    assert answer.header("cache-control") == "no-store"


async def test_key_sets_are_served_while_the_store_is_away(world: World) -> None:
    before = {path: (await get(world, path)).body for path in KEY_SETS}
    world.break_documents("keys")
    world.advance(86_400)
    assert {path: (await get(world, path)).body for path in KEY_SETS} == before
    world.restart("publish_metadata")
    answer = await get(world, KEY_SETS[0])
    assert answer.refusal == (503, "temporarily_unavailable", "store_unavailable")
    assert answer.header("retry-after")


# --- rotation, seen from outside ---


class Verifier:
    """A resource that knows the key sets as its cache last saw them, up to five minutes ago."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sets: dict[str, tuple[int, set[str]]] = {}

    async def knows(self, path: str, token: str) -> bool:
        fetched_at, kids = self._sets.get(path, (0, set()))
        if self._world.now - fetched_at > 300:
            kids = {key["kid"] for key in (await get(self._world, path)).json["keys"]}
            self._sets[path] = (self._world.now, kids)
        return header_of(token)["kid"] in kids


@pytest.mark.requirement("CAB-1.5-1")
async def test_rotation_never_meets_a_verifier_without_the_key(world: World) -> None:
    """Keys are rotated over and over while tokens are issued; every token verifies for its whole life by a cached set."""
    verifier = Verifier(world)
    alive: list[tuple[str, str]] = []
    kids: set[str] = set()
    steps = [world.rotation.publish, world.rotation.activate, world.rotation.retire] * 3
    await world.set_up()
    for step in steps:
        for issuer in Issuer:
            await world.run_when_allowed(step, issuer)
        for _ in range(6):
            world.advance(50)
            assertion = await world.assertion(task=task("*"))
            token = (await world.exchange(WRITE, subject_token=assertion)).json["access_token"]
            kids.add(header_of(token)["kid"])
            alive += [("/edge/jwks.json", assertion), ("/oauth2/jwks.json", token)]
            alive = [(path, text) for path, text in alive if claims_of(text)["exp"] > world.now]
            for path, text in alive:
                assert await verifier.knows(path, text)
    assert len(kids) == 4


async def test_a_new_key_signs_within_a_minute_of_its_activation_without_restart(world: World) -> None:
    async def kid() -> Any:
        return header_of((await world.exchange()).json["access_token"])["kid"]

    first = await kid()
    await world.rotation.publish(Issuer.STS)
    world.advance(301)
    await world.rotation.activate(Issuer.STS)
    world.advance(61)
    assert await kid() != first

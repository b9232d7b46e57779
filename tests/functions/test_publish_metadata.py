"""Discovery documents and key sets: public, cacheable, and never without the keys that verify (docs/api.md)."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import claims_of, header_of
from tests.support.world import STS, WRITE, World, deployment, gather, task

from cab.ports import Replace
from cab.protocol import metadata
from cab.stores.signing_keys import Issuer

DOCUMENTS = sorted(metadata.METADATA_PATHS)
KEY_SETS = ["/oauth2/jwks.json", "/edge/jwks.json"]


async def get(world: World, path: str, method: str = "GET", **headers: str) -> Answer:
    sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return await world.request(method, path, function="publish_metadata", headers=sent)


@pytest.mark.requirement("RFC8414-3-1")
@pytest.mark.requirement("RFC8414-3.3-1")
@pytest.mark.parametrize("path", DOCUMENTS)
async def test_every_path_answers_the_same_document(world: World, path: str) -> None:
    answer = await get(world, path)
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "public, max-age=300"
    assert answer.header("access-control-allow-origin") == "*"
    assert answer.header("x-content-type-options") == "nosniff"
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


@pytest.mark.parametrize("path", ["/oauth2/token/", "/token", "/oauth2/register"])
async def test_whoever_posts_to_a_wrong_path_is_not_told_to_use_get(world: World, path: str) -> None:
    answer = await get(world, path, "POST")
    assert answer.refusal == (404, "invalid_request", "not_found")
    assert answer.header("allow") is None


@pytest.mark.parametrize("path", [*DOCUMENTS, *KEY_SETS, "/oauth2/openapi.json", "/oauth2/authorization-details-types"])
async def test_what_a_caller_has_already_is_not_sent_again(shared_world: World, path: str) -> None:
    first = await get(shared_world, path)
    tag = first.header("etag")
    assert tag is not None
    assert tag[0] == tag[-1] == '"'  # strong: the same tag is the same bytes
    for known in (tag, f"W/{tag}", f'"other", {tag}', f'"other",W/{tag}', "*"):
        answer = await get(shared_world, path, if_none_match=known)
        assert (answer.status, answer.body, answer.header("etag")) == (304, b"", tag)
        assert answer.header("cache-control") == first.header("cache-control")
        assert answer.header("access-control-allow-origin") == "*"
    for other in ('"other"', "", tag.strip('"'), f'"{tag}"', '"*"'):
        answer = await get(shared_world, path, if_none_match=other)
        assert (answer.status, answer.body) == (200, first.body)
    assert (await get(shared_world, path, "HEAD")).header("etag") == tag


@pytest.mark.parametrize("path", KEY_SETS)
async def test_key_sets_are_the_same_bytes_at_every_instance_in_whatever_order_the_store_answers(
    world: World, path: str
) -> None:
    first = await get(world, path)
    documents = world.cloud.documents["keys"]
    stored = await documents.read(f"signing_keys/{'sts' if 'oauth2' in path else 'edge'}")
    assert stored is not None
    turned = [
        dict(reversed(key.items())) | {"jwk": dict(reversed(key["jwk"].items()))} for key in stored.fields["keys"]
    ]
    await documents.write(Replace(stored.path, {"keys": turned}, stored.version))
    world.restart("publish_metadata")
    second = await get(world, path)
    assert (second.body, second.header("etag")) == (first.body, first.header("etag"))


async def test_however_many_strangers_ask_the_store_is_read_once_in_half_a_minute(world: World) -> None:
    await world.set_up()
    calls = world.cloud.documents["keys"].calls
    before = calls["read"]
    await gather(*(get(world, KEY_SETS[0]) for _ in range(100)))
    await gather(*(get(world, KEY_SETS[0], if_none_match="*") for _ in range(100)))
    assert calls["read"] == before + 1
    world.advance(29)
    await get(world, KEY_SETS[0])
    assert calls["read"] == before + 1
    world.advance(1)
    await gather(*(get(world, KEY_SETS[0]) for _ in range(100)))
    assert calls["read"] == before + 2


@pytest.mark.parametrize("known", [True, False])
async def test_strangers_do_not_hammer_a_store_that_is_away(world: World, known: bool) -> None:
    await world.set_up()
    if known:
        await get(world, KEY_SETS[0])
        world.advance(30)
    calls = world.cloud.documents["keys"].calls
    before = calls["read"]
    world.break_documents("keys")
    answers = await gather(*(get(world, KEY_SETS[0]) for _ in range(100)))
    assert {answer.status for answer in answers} == {200 if known else 503}
    assert calls["read"] == before + 1
    world.mend_documents("keys")
    world.advance(5)
    assert (await get(world, KEY_SETS[0])).status == 200
    assert calls["read"] == before + 2


async def test_a_published_key_is_in_the_set_within_half_a_minute(world: World) -> None:
    first = await get(world, KEY_SETS[0])
    await world.rotation.publish(Issuer.STS)
    world.advance(30)
    later = await get(world, KEY_SETS[0], if_none_match=first.header("etag") or "")
    assert later.status == 200
    assert len(later.json["keys"]) == 2


async def test_key_sets_are_served_while_the_store_is_away(world: World) -> None:
    before = {path: (await get(world, path)).body for path in KEY_SETS}
    world.break_documents("keys")
    world.advance(86_400)
    assert {path: (await get(world, path)).body for path in KEY_SETS} == before
    world.restart("publish_metadata")
    answer = await get(world, KEY_SETS[0])
    assert answer.refusal == (503, "temporarily_unavailable", "store_unavailable")
    assert answer.header("retry-after")


async def test_a_slow_store_holds_nobody_who_asks_for_keys_that_are_known(world: World) -> None:
    """For 3 s and more each, before."""
    first = await get(world, KEY_SETS[0])
    world.advance(3600)
    world.cloud.documents["keys"].delay_s = 3
    begun = time.monotonic()
    answers = await gather(*(get(world, KEY_SETS[0]) for _ in range(20)))
    assert {answer.body for answer in answers} == {first.body}
    assert time.monotonic() - begun < 2


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

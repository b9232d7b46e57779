"""Other people's decoders take our tokens and refuse others, with the switches that docs/api.md names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from authlib.oauth2.rfc6750.errors import InvalidTokenError
from authlib.oauth2.rfc9068 import JWTBearerTokenValidator
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from tests.support.world import STS, WAREHOUSE, World


class AuthlibValidator(JWTBearerTokenValidator):  # type: ignore[misc]  # untyped
    keys: Any

    def get_jwks(self) -> Any:
        return self.keys


async def key_set(world: World) -> Any:
    return (await world.request("GET", "/oauth2/jwks.json", function="publish_metadata")).json


async def access_token(world: World) -> str:
    answer = await world.exchange()
    assert answer.status == 200
    return str(answer.json["access_token"])


def with_pyjwt(token: str, keys: Any) -> Any:
    (key,) = jwt.PyJWKSet.from_dict(keys).keys
    decoded = jwt.decode_complete(token, key, algorithms=["ES256"], issuer=STS, audience=WAREHOUSE)
    if decoded["header"]["typ"] != "at+jwt":
        raise jwt.InvalidTokenError("no access token")
    return decoded["payload"]


def with_authlib(token: str, keys: Any) -> Any:
    validator = AuthlibValidator(issuer=STS, resource_server=WAREHOUSE)
    validator.keys = KeySet.import_key_set(keys)
    claims = validator.authenticate_token(token)
    claims.validate()
    return claims


@pytest.mark.parametrize("decode", [with_pyjwt, with_authlib])
async def test_an_access_token_is_taken_and_an_assertion_is_not(decode: Any) -> None:
    world = World()
    world.clock.set(datetime.now(UTC))  # these libraries read the system's clock
    token = await access_token(world)
    keys = await key_set(world)
    assert decode(token, keys)["client_id"] == "assistant"
    handed_on = await world.delegate(await world.assertion(), "assistant", "researcher")
    with pytest.raises((jwt.InvalidTokenError, InvalidTokenError, JoseError)):
        decode(handed_on.json["access_token"], keys)

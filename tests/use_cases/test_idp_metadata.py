"""Where an IdP's discovery document may send people and the broker's client secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from tests.grants.virtual_time import in_virtual_time

from cab.ports import HttpAnswer, Unavailable
from cab.use_cases.people.idp_metadata import IdpMetadata
from cab_dev.fakes.clock import SettableClock

ISSUER = "https://accounts.example.com"
ENDPOINTS = {"authorization_endpoint": f"{ISSUER}/authorize", "token_endpoint": f"{ISSUER}/token"}
ELSEWHERE = "https://oauth2.example.net"


@dataclass
class OneDocument:
    """Answers every GET with one discovery document."""

    document: dict[str, Any]
    mark: bytes = b""
    delay_s: float = 0
    asked: int = 0

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None, **_: Any) -> HttpAnswer:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        return HttpAnswer(200, {}, self.mark + json.dumps(self.document).encode())

    async def post_form(self, *_: Any, **__: Any) -> HttpAnswer:
        raise AssertionError("discovery posts nothing")

    post_json = post_form


def metadata(token_endpoint: str, *origins: str) -> IdpMetadata:
    document = {
        "issuer": ISSUER,
        "authorization_endpoint": f"{ISSUER}/authorize",
        "token_endpoint": token_endpoint,
    }
    return IdpMetadata(OneDocument(document), SettableClock(), {ISSUER: origins})


async def test_an_endpoint_on_another_origin_is_refused() -> None:
    with pytest.raises(Unavailable):
        await metadata(f"{ELSEWHERE}/token").endpoints(ISSUER)


async def test_an_endpoint_on_a_configured_origin_is_accepted() -> None:
    endpoints = await metadata(f"{ELSEWHERE}/token", ELSEWHERE).endpoints(ISSUER)
    assert endpoints.token_endpoint == f"{ELSEWHERE}/token"


@pytest.mark.parametrize("origin", [ISSUER + ":443", "https://Accounts.Example.com"])
async def test_a_port_that_https_implies_and_capital_letters_make_no_other_origin(origin: str) -> None:
    assert (await metadata(f"{origin}/token").endpoints(ISSUER)).token_endpoint == f"{origin}/token"
    for other in (ISSUER + ":8443", ISSUER + ":80", "http://accounts.example.com:443"):
        with pytest.raises(Unavailable):
            await metadata(f"{other}/token").endpoints(ISSUER)


@pytest.mark.parametrize(
    "url", [f"{ELSEWHERE}.evil.test/token", f"{ELSEWHERE}@evil.test/token", "http://oauth2.example.net/t"]
)
async def test_an_origin_that_only_looks_configured_is_refused(url: str) -> None:
    with pytest.raises(Unavailable):
        await metadata(url, ELSEWHERE).endpoints(ISSUER)


async def test_a_document_may_begin_with_a_byte_order_mark() -> None:
    document = {"issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/a", "token_endpoint": f"{ISSUER}/t"}
    marked = IdpMetadata(OneDocument(document, mark=b"\xef\xbb\xbf"), SettableClock(), {ISSUER: ()})
    assert (await marked.endpoints(ISSUER)).token_endpoint == f"{ISSUER}/t"


@in_virtual_time
async def test_nobody_who_logs_in_waits_for_a_slow_document_while_the_last_one_is_good() -> None:
    """Every login of the hour waited for it, four seconds each."""
    http, clock = OneDocument({"issuer": ISSUER} | ENDPOINTS), SettableClock()
    endpoints = IdpMetadata(http, clock, {})
    first = await endpoints.endpoints(ISSUER)
    clock.advance(timedelta(hours=2))
    http.delay_s = 4
    begun = asyncio.get_running_loop().time()
    assert await asyncio.gather(*(endpoints.endpoints(ISSUER) for _ in range(10))) == [first] * 10
    assert asyncio.get_running_loop().time() - begun == 0.5
    assert http.asked == 2

"""ID tokens of the function's own account."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import google.auth.exceptions
import jwt
import pytest

from cab.adapters.google_cloud import service_tokens
from cab.adapters.google_cloud.service_tokens import GoogleServiceTokens
from cab.ports import Unavailable
from cab_dev.fakes.clock import SettableClock
from cab_dev.services import google_identity

ACCOUNT = "exchange-token@demo-cab.iam.gserviceaccount.com"
AUDIENCE = "http://127.0.0.1:8080/refresh"
# google-auth reads where the metadata server is when it is imported, hence a process of its own.
PROGRAM = """
import asyncio, sys
from cab.adapters.google_cloud.service_tokens import GoogleServiceTokens
from cab.adapters.system import SystemClock
from cab.ports import Unavailable

async def main():
    tokens = GoogleServiceTokens(SystemClock())
    try:
        first = await tokens.identity_token(sys.argv[1])
    except Unavailable as unavailable:
        print("Unavailable:", unavailable)
    else:
        print(first)
        print(await tokens.identity_token(sys.argv[1]))

asyncio.run(main())
"""


async def run_with_metadata_server(address: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "GOOGLE_APPLICATION_CREDENTIALS"}
    environment |= {
        "GCE_METADATA_HOST": address,
        "GCE_METADATA_IP": address,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM, AUDIENCE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


async def test_the_metadata_server_gives_a_token_for_the_audience_and_it_is_kept() -> None:
    issuer = "https://accounts.google.com"
    async with google_identity.serving(port=0, issuer=issuer, accounts={ACCOUNT: 0}) as listening:
        first, second = await run_with_metadata_server(listening.metadata[ACCOUNT])
    claims = jwt.decode(first, options={"verify_signature": False})
    assert (claims["aud"], claims["email"]) == (AUDIENCE, ACCOUNT)
    assert first == second


async def test_without_a_metadata_server_there_is_no_token() -> None:
    async with google_identity.serving(port=0, issuer="i", accounts={ACCOUNT: 0}) as listening:
        gone = listening.metadata[ACCOUNT]
    assert await run_with_metadata_server(gone) == ["Unavailable: service tokens"]


class Fetches:
    """Stands for google-auth: counts fetches, and each token lives an hour."""

    def __init__(self, clock: SettableClock) -> None:
        self._clock = clock
        self.count = 0
        self.before: Callable[[], None] = lambda: None

    def __call__(self, audience: str) -> service_tokens._Token:
        self.before()
        self.count += 1
        return service_tokens._Token(f"{audience} {self.count}", self._clock.now() + timedelta(hours=1))


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def fetches(clock: SettableClock, monkeypatch: pytest.MonkeyPatch) -> Fetches:
    fetches = Fetches(clock)
    monkeypatch.setattr(service_tokens, "_fetch_blocking", fetches)
    return fetches


async def test_a_token_is_fetched_again_five_minutes_before_it_expires(fetches: Fetches, clock: SettableClock) -> None:
    tokens = GoogleServiceTokens(clock)
    assert await tokens.identity_token("a") == "a 1"
    clock.advance(timedelta(minutes=54, seconds=59))
    assert await tokens.identity_token("a") == "a 1"
    clock.advance(timedelta(seconds=1))
    assert await tokens.identity_token("a") == "a 2"


async def test_every_audience_has_a_token_of_its_own(fetches: Fetches, clock: SettableClock) -> None:
    tokens = GoogleServiceTokens(clock)
    assert [await tokens.identity_token(audience) for audience in ("a", "b", "a")] == ["a 1", "b 2", "a 1"]


async def test_fifty_callers_share_one_fetch_and_one_that_leaves_disturbs_nobody(
    fetches: Fetches, clock: SettableClock
) -> None:
    fetches.before = lambda: time.sleep(0.05)
    tokens = GoogleServiceTokens(clock)
    calls = [asyncio.create_task(tokens.identity_token("a")) for _ in range(50)]
    await asyncio.sleep(0)
    calls[0].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert set(answers[1:]) == {"a 1"}
    assert fetches.count == 1


async def test_a_failed_fetch_says_nothing_of_why_and_the_next_one_is_tried(
    fetches: Fetches, clock: SettableClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise google.auth.exceptions.TransportError("canary-3f9a")

    tokens = GoogleServiceTokens(clock)
    fetches.before = fail
    with pytest.raises(Unavailable) as unavailable:
        await tokens.identity_token("a")
    assert "canary" not in caplog.text + repr(unavailable.value)
    fetches.before = lambda: None
    assert await tokens.identity_token("a") == "a 1"


async def test_a_fetch_that_hangs_is_not_waited_for(
    fetches: Fetches, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_tokens, "_BUDGET_S", 0.05)
    fetches.before = lambda: time.sleep(0.3)
    with pytest.raises(Unavailable):
        await GoogleServiceTokens(clock).identity_token("a")

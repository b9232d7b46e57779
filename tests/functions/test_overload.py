"""More requests than a process can take on, at the process that is deployed: functions-framework, gunicorn, uvicorn worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest
import requests
from aiohttp import web
from tests.functions.test_exit import deployed
from tests.support.jose import key_set
from tests.support.world import FORM, TOKEN_EXCHANGE, World, as_form, client_key

from cab.transport.admission import MOST_IN_PROCESS
from cab_dev import loopback
from gcp_emulators import Emulators
from gcp_emulators.faults import CallFault
from gcp_emulators.testing import running_for_tests

TOO_MANY = MOST_IN_PROCESS + 100
STORE_ANSWERS_AFTER_S = 1.0


@pytest.fixture(scope="module")
def emulators() -> Iterator[Emulators]:
    with running_for_tests("embedded") as running:
        yield running


@dataclass(frozen=True)
class Answered:
    at: float
    status: int
    headers: str
    body: str


GET_KEYS = b"GET /oauth2/jwks.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def ask(port: int, request: bytes = GET_KEYS) -> Answered:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    text = (await reader.read()).decode()
    writer.close()
    head, _, body = text.partition("\r\n\r\n")
    return Answered(time.monotonic(), int(head.split()[1]), head.lower(), body)


async def ask_together(port: int, number: int) -> list[Answered]:
    return await asyncio.gather(*(ask(port) for _ in range(number)))


def test_what_is_too_much_is_refused_before_the_rest_is_answered_and_then_everybody_is_served(
    emulators: Emulators, tmp_path: Path
) -> None:
    with deployed(emulators, tmp_path, "demo-overload", function="publish_metadata") as function:
        emulators.control("firestore").add_fault(CallFault(service="firestore", latency_s=STORE_ANSWERS_AFTER_S))
        port = int(function.url.rpartition(":")[2])
        answers = asyncio.run(ask_together(port, TOO_MANY))
        refused = [answer for answer in answers if '"overloaded"' in answer.body]
        others = [answer for answer in answers if '"overloaded"' not in answer.body]
        assert {answer.status for answer in refused} == {503}
        assert (
            TOO_MANY - MOST_IN_PROCESS <= len(refused) < TOO_MANY
        )  # a machine too slow for the rest refuses more of them
        assert all("retry-after: " in answer.headers and "cab-txn: " in answer.headers for answer in refused)
        assert sorted(answer.at for answer in refused)[TOO_MANY - MOST_IN_PROCESS - 1] < min(
            answer.at for answer in others
        )
        assert requests.get(f"{function.url}/health", timeout=5).status_code == 200
        again = asyncio.run(ask_together(port, 20))
    assert not any('"overloaded"' in answer.body for answer in again)


@dataclass
class HeldKeys:
    """Publishes the agents' public keys, once it may."""

    asked: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.may_answer.wait()
        return web.json_response(key_set(client_key(request.path.removeprefix("/"))))


def exchange_by(world: World) -> bytes:
    """As an agent sends it that signs its assertions."""
    body = as_form({"grant_type": TOKEN_EXCHANGE, "subject_token": "x"} | world.credentials("assistant"))
    head = "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
    return head.format(FORM[1], len(body)).encode() + body


async def test_an_exchange_that_is_too_much_is_refused_before_there_is_a_key_to_verify_anything_with(
    emulators: Emulators, tmp_path: Path
) -> None:
    world, keys, application = World(), HeldKeys(), web.Application()
    world.clock.set(datetime.now(UTC))
    application.router.add_get("/{client}", keys.answer)
    runner, port_of_keys = await loopback.serve(application, 0)
    origin = {"CLIENTS_ORIGIN": f"http://127.0.0.1:{port_of_keys}"}
    with ExitStack() as stack:
        process = deployed(emulators, tmp_path, "demo-overload-exchange", function="exchange_token", **origin)
        function = await asyncio.to_thread(stack.enter_context, process)
        port = int(function.url.rpartition(":")[2])
        asked = [asyncio.create_task(ask(port, exchange_by(world))) for _ in range(TOO_MANY)]
        refused = [await answer for answer in islice(asyncio.as_completed(asked), TOO_MANY - MOST_IN_PROCESS)]
        keys.may_answer.set()
        answers = await asyncio.gather(*asked)
        again = await asyncio.gather(*(ask(port, exchange_by(world)) for _ in range(5)))
    await runner.cleanup()
    assert {answer.status for answer in refused} == {503}
    assert all('"overloaded"' in answer.body and "retry-after: " in answer.headers for answer in refused)
    assert keys.asked == 1, "those who were let in wait for it"
    served = [answer for answer in answers if '"overloaded"' not in answer.body]
    assert {answer.status for answer in [*served, *again]} == {400}  # whose subject token is none
    assert served

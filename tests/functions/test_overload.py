"""More requests than a process can take on, at the process that is deployed: functions-framework, gunicorn, uvicorn worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from tests.functions.test_exit import deployed

from cab.transport.admission import MOST_IN_PROCESS
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


async def ask(port: int) -> Answered:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /oauth2/jwks.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
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

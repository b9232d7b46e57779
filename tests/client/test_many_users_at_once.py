"""One agent in many threads, event loops and processes, over real sockets: nobody is given another's token."""

from __future__ import annotations

import asyncio
import http.server
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from urllib.parse import parse_qs

import pytest

from cab_client import Agent, AsyncAgent, CabError, ClientSecret, Intent

READ = Intent("crm.opportunity.read", on="crm", identifier="opportunity/1")


class Broker(http.server.BaseHTTPRequestHandler):
    """Keeps connections, and takes its time; the token says for which user it is."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        time.sleep(0.01)
        token = f"token-of-{form['subject_token'][0]}"
        body = json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 300}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def origin() -> Iterator[str]:
    """A broker in a process of its own, since the tests' process forks."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broker)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    server.server_close()
    yield f"http://127.0.0.1:{server.server_port}"
    process.kill()
    process.join()


def strangers_tokens(agent: Agent, worker: int) -> int:
    """How many of some exchanges brought no token, or one of another user."""
    wrong = 0
    for number in range(5):
        user = f"a.{worker}.{number}"
        try:
            wrong += agent.permit(READ, assertion=user).reveal() != f"token-of-{user}"
        except CabError:
            wrong += 1
    return wrong


def test_processes_that_were_forked_from_a_used_agent_share_no_connection(origin: str) -> None:
    agent = Agent(origin, ClientSecret("a", "s"), connections={"crm": "https://crm.fake"}, deadline_s=2.0)
    agent.permit(READ, assertion="a.b.c")
    with multiprocessing.get_context("fork").Pool(3, initializer=_begin, initargs=(agent,)) as workers:
        assert workers.map(_in_child, range(3), chunksize=1) == [0, 0, 0]
    assert strangers_tokens(agent, 9) == 0
    agent.close()


_inherited: list[Agent] = []


def _begin(agent: Agent) -> None:
    _inherited.append(agent)


def _in_child(worker: int) -> int:
    return strangers_tokens(_inherited[0], worker)


def test_event_loops_in_several_threads_use_connections_of_their_own(origin: str) -> None:
    agent = AsyncAgent(origin, ClientSecret("a", "s"), connections={"crm": "https://crm.fake"}, deadline_s=2.0)
    made: list[int] = []
    wrong: list[str] = []

    async def one(user: str) -> None:
        permit = await agent.permit(READ, assertion=user)
        made.append(id(agent._driver._open()))
        if permit.reveal() != f"token-of-{user}":
            wrong.append(user)

    async def some(thread: int) -> None:
        for number in range(5):
            await asyncio.gather(*(one(f"a.{thread}.{number}{letter}") for letter in "xyz"))
        await agent.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(some(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(set(made)), wrong) == (45, 3, [])

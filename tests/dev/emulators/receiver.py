"""An HTTP endpoint for pushes that remembers what it got and answers what the test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Push:
    """One request as it arrived. `at` is in seconds on the monotonic clock."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


@dataclass
class Receiver:
    """Answers `statuses` one after the other, then `then` for ever."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    then: int = 204
    pushes: list[Push] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    def accept(self, push: Push) -> int:
        """Remember a push and return the status to answer it with."""
        with self._arrived:
            self.pushes.append(push)
            self._arrived.notify_all()
            return self.statuses.pop(0) if self.statuses else self.then

    def wait_for(self, count: int, *, within_s: float = _ANSWER_TIMEOUT_S) -> list[Push]:
        """The pushes, once there are at least so many. Fails the test when they do not come."""
        return self.wait_until(lambda pushes: len(pushes) >= count, within_s=within_s)

    def wait_until(self, condition: Callable[[list[Push]], bool], *, within_s: float = _ANSWER_TIMEOUT_S) -> list[Push]:
        with self._arrived:
            came = self._arrived.wait_for(lambda: condition(self.pushes), within_s)
            assert came, f"only {len(self.pushes)} pushes within {within_s} s"
            return list(self.pushes)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free loopback port until the block ends."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.accept(Push(self.path, headers, body, time.monotonic()))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

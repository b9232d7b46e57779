"""A provider double in this process behind the port `HttpClient`: with latency, timeouts and broken connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from cab.ports import AnswerTooLarge, HttpAnswer, SendFailed


class DoubleHttp:
    """`delay_s` passes on the way there and again on the way back. `refuses` makes every connection fail before anything is
    sent. `calls` holds the path of every request that left; `answer_after` may change what the double answered.
    """

    def __init__(self, app: Any, *, delay_s: float = 0.01) -> None:
        self._app = app
        self.delay_s = delay_s
        self.refuses = False
        self.calls: list[str] = []
        self.answer_instead: Callable[[str], HttpAnswer | None] = lambda _: None
        self.answer_after: Callable[[HttpAnswer], HttpAnswer] = lambda answer: answer
        self.token_names: dict[str, str] = {}  # what the double calls tokens that `answer_after` renamed
        self._left_alone: set[asyncio.Task[Any]] = set()

    async def get(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 5, max_bytes: int = 102_400
    ) -> HttpAnswer:
        return await self._send("GET", url, b"", dict(headers or {}), timeout_s, max_bytes)

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10,
        max_bytes: int = 102_400,
    ) -> HttpAnswer:
        sent = {"content-type": "application/x-www-form-urlencoded"} | dict(headers or {})
        form = {name: self.token_names.get(value, value) for name, value in form.items()}
        return await self._send("POST", url, urlencode(form).encode(), sent, timeout_s, max_bytes)

    async def post_json(self, url: str, document: Any, **_: Any) -> HttpAnswer:
        raise NotImplementedError

    async def _send(
        self, method: str, url: str, body: bytes, headers: dict[str, str], timeout_s: float, max_bytes: int
    ) -> HttpAnswer:
        if self.refuses:
            raise SendFailed("provider", may_have_arrived=False)
        path = urlsplit(url).path
        self.calls.append(path)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.delay_s)
                answer = self.answer_instead(path) or await self._exchange(method, url, body, headers)
                answer = self.answer_after(answer)
                await asyncio.sleep(self.delay_s)
        except TimeoutError:
            raise SendFailed("provider", may_have_arrived=True) from None
        if len(answer.body) > max_bytes:
            raise AnswerTooLarge
        length = answer.headers.get("content-length")
        if length is not None and int(length) != len(answer.body):
            raise SendFailed("provider", may_have_arrived=True)
        return answer

    async def _exchange(self, method: str, url: str, body: bytes, headers: dict[str, str]) -> HttpAnswer:
        """What a client that gives up cannot undo: the request goes on at the other side, which sees the client leave."""
        parts = urlsplit(url)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": parts.scheme,
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [
                (b"host", parts.netloc.encode()),
                (b"content-length", str(len(body)).encode()),
                *((name.lower().encode(), value.encode()) for name, value in headers.items()),
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", parts.port or 80),
        }
        requests = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if requests:
                return requests.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        task = asyncio.create_task(self._app(scope, receive, send))
        self._left_alone.add(task)
        task.add_done_callback(self._left_alone.discard)
        try:
            await asyncio.shield(task)
        finally:
            gone.set()
        start = next(message for message in sent if message["type"] == "http.response.start")
        content = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
        lowered = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return HttpAnswer(start["status"], lowered, content)

"""Reach applications without sockets: as a client of one application, or as a browser of several origins."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPMessage
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import httpx2
import requests
from requests.adapters import BaseAdapter
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.support import asgi
from urllib3 import HTTPResponse
from urllib3._collections import HTTPHeaderDict


class _InThisProcess(httpx2.BaseTransport):
    """Each request has an event loop of its own. Starlette's TestClient starts a thread for each: many times the work."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._answer(request))
        with ThreadPoolExecutor(1) as thread:  # called from a coroutine, whose loop is busy with it
            return thread.submit(asyncio.run, self._answer(request)).result()

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        answer = await asgi.request(
            self._undisturbed,
            request.method,
            url.path,
            raw_path=url.raw_path.partition(b"?")[0],
            query=url.query.decode("ascii"),
            headers=request.headers.multi_items(),
            body=request.read(),
        )
        return httpx2.Response(answer.status, headers=list(answer.headers), stream=httpx2.ByteStream(answer.body))

    async def _undisturbed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What Starlette raises once more after it has answered 500 is its server's to log."""
        started: list[Message] = []

        async def send_and_note(message: Message) -> None:
            started.append(message)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            if not started:
                raise


class Client(httpx2.Client):
    """A client of one application, which shows redirects and server errors instead of acting on them."""

    def __init__(self, app: ASGIApp, origin: str) -> None:
        super().__init__(transport=_InThisProcess(app), base_url=origin, follow_redirects=False)
        self.app = app


def _original(headers: Sequence[tuple[str, str]]) -> Any:
    """As much of an `http.client` response as a session needs to find cookies in."""
    message = HTTPMessage()
    for name, value in headers:
        message[name] = value
    return SimpleNamespace(msg=message, close=lambda: None, isclosed=lambda: True)


class _ApplicationAdapter(BaseAdapter):
    """Answers requests of a `requests` session by an application in this process."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = _InThisProcess(app)

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        assert request.method is not None
        assert request.url is not None
        body = request.body.encode() if isinstance(request.body, str) else request.body
        answer = self._app.handle_request(
            httpx2.Request(request.method, request.url, headers=dict(request.headers), content=body or b"")
        )
        answer.read()
        response = requests.Response()
        response.status_code = answer.status_code
        response.headers.update(answer.headers)
        response.url = request.url
        response.request = request
        response.encoding = "utf-8"
        response.raw = HTTPResponse(
            body=BytesIO(answer.content),
            headers=HTTPHeaderDict(answer.headers.multi_items()),
            status=answer.status_code,
            preload_content=False,
            original_response=_original(answer.headers.multi_items()),
        )
        return response

    def close(self) -> None:
        pass


def browser_session(apps: Mapping[str, ASGIApp]) -> requests.Session:
    """A `requests` session that finds each origin of `apps` in this process and has no other way out."""
    session = requests.Session()
    session.adapters.clear()
    for origin, app in apps.items():
        session.mount(origin + "/", _ApplicationAdapter(app))
    return session

"""Reach applications without sockets: as a client of one application, or as a browser of several origins."""

from collections.abc import Mapping, Sequence
from http.client import HTTPMessage
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import requests
from requests.adapters import BaseAdapter
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from urllib3 import HTTPResponse
from urllib3._collections import HTTPHeaderDict


def client_of(app: ASGIApp, origin: str) -> TestClient:
    """A client that shows redirects and server errors instead of acting on them."""
    return TestClient(app, base_url=origin, follow_redirects=False, raise_server_exceptions=False)


def _original(headers: Sequence[tuple[str, str]]) -> Any:
    """As much of an `http.client` response as a session needs to find cookies in."""
    message = HTTPMessage()
    for name, value in headers:
        message[name] = value
    return SimpleNamespace(msg=message, close=lambda: None, isclosed=lambda: True)


class _ApplicationAdapter(BaseAdapter):
    """Answers requests of a `requests` session by an application in this process."""

    def __init__(self, app: ASGIApp, origin: str) -> None:
        super().__init__()
        self._app = app
        self._origin = origin

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        assert request.method is not None
        assert request.url is not None
        with client_of(self._app, self._origin) as client:
            answer = client.request(
                request.method, request.url, content=request.body or b"", headers=dict(request.headers)
            )
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
        session.mount(origin + "/", _ApplicationAdapter(app, origin))
    return session

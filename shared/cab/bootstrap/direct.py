"""The way from the server to a function: past what the framework has on it, from the second request on.

The framework draws an execution id for each request, for log lines of its own format, and asks a router which function is meant, where
there is one. Ours are joined by their trace, and our functions answer each path, method and fault themselves. That way was 148 thousand
instructions of every request (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Function = Callable[[Request], Awaitable[Response]]


def serve_directly(application: Starlette, function: Function) -> None:
    """The application gives every further request to the function itself; what is no request goes its old way."""
    framework = application.middleware_stack or application.build_middleware_stack()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await framework(scope, receive, send)
            return
        answer = await function(Request(scope, receive, send))
        await answer(scope, receive, send)

    application.middleware_stack = serve

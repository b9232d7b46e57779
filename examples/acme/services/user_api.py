"""An API that only serves users: every call needs an access token with the call's scope, and is logged by user."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_dev.doubles.oauth_provider import OAuthProvider
from cab_dev.doubles.strict_input import BadRequest

UserHandler = Callable[[Request, str], Awaitable[Response]]
"""Gets the request and the login of the user whose token it carries."""


class UserApi:
    """Routes behind `provider`, and a log of the last 1,000 calls: who, what, status. No tokens, no bodies."""

    def __init__(self, provider: OAuthProvider) -> None:
        self._provider = provider
        self._calls: deque[dict[str, Any]] = deque(maxlen=1000)
        self._seq = 0

    def route(self, method: str, path: str, scope: str, handler: UserHandler) -> Route:
        """A route that needs `scope`. Without a live token 401, without the scope 403."""

        async def call(request: Request) -> Response:
            user: str | None = None
            client_id: str | None = None
            try:
                token = self._provider.require(request, scope)
                user, client_id = self._provider.account(token.account).login, token.client_id
                response = await handler(request, user)
            except BadRequest as exc:
                response = exc.response()
            self._seq += 1
            self._calls.append(
                {
                    "seq": self._seq,
                    "at": self._provider.clock(),
                    "user": user,
                    "client_id": client_id,
                    "method": request.method,
                    "path": request.url.path,
                    "status": response.status_code,
                }
            )
            return response

        return Route(path, self._provider.guarded_api(call), methods=[method])

    def log_route(self) -> Route:
        """`GET /_control/requests`: the calls, oldest first."""

        async def show(_: Request) -> Response:
            return JSONResponse({"requests": list(self._calls)})

        return Route("/_control/requests", show, methods=["GET"])

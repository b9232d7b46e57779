"""FastAPI: what a route's token must have been made for, as a dependency of the route.

    cab = CabRoutes(issuer="https://cab.acme.example/oauth2", resource="https://crm.acme.example")
    app = FastAPI(dependencies=[cab.every_route])

    @app.post("/opportunities/{id}/notes")
    def add(id: str, note: Note, caller: Annotated[Caller, cab.covers("crm.note.create", "opportunity/{id}", body=("text",))]): ...

With a `reporter` the application also takes `middleware=[cab.reporting]`, which sees what is answered.
`every_route` refuses where a route asks for nothing, as `CabResource` does; `dependencies=[cab.public]` lets everybody into one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from fastapi import Depends, HTTPException, Request
from starlette.middleware import Middleware

from cab_client.resource import CAME_IN, Caller, FetchJson, Gate, Refusal, Reporter, Rule, Telling, covers, fetch_json


class CabRoutes:
    """The gate of one resource. The arguments are those of `cab_client.resource.Gate`."""

    def __init__(
        self,
        *,
        issuer: str,
        resource: str,
        hosts: Iterable[str] = (),
        fetch: FetchJson = fetch_json,
        reporter: Reporter | None = None,
    ) -> None:
        self._gate = Gate(issuer=issuer, resource=resource, hosts=hosts, fetch=fetch, reporter=reporter)
        self.reporting = Middleware(Telling, self._gate)
        self.every_route = Depends(self._asked)
        self.public = Depends(_nothing)

    def covers(self, action: str, identifier: str, **how: Any) -> Any:
        """The rule `cab_client.resource.covers`, as a dependency that gives the `Caller`."""
        return self.needs(covers(action, identifier, **how))

    def needs(self, rule: Rule) -> Any:
        """A rule of your own, as a dependency. The placeholders are those of the route's path."""

        async def caller(request: Request) -> Caller:
            if self._gate.reporter is not None and CAME_IN not in request.scope:
                raise RuntimeError("a reporter needs middleware=[cab.reporting] in the application")
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
            body = await request.body()
            found = await asyncio.to_thread(
                self._gate.judge,
                request.method,
                request.scope["path"],
                request.scope["query_string"].decode("latin-1"),
                headers,
                body if len(body) <= self._gate.max_body else None,
                rule,
                {name: str(value) for name, value in request.path_params.items()},
            )
            if isinstance(found, Refusal):
                raise self._refused(found)
            request.scope.get(CAME_IN, []).append((found, headers))
            return found

        caller.__cab_asks__ = True  # type: ignore[attr-defined]
        return Depends(caller)

    def _refused(self, refusal: Refusal) -> HTTPException:
        detail = {"error": refusal.error, "error_description": refusal.description}
        return HTTPException(refusal.status, detail, headers=self._gate.headers_of(refusal))

    async def _asked(self, request: Request) -> None:
        if not _asks(request.scope["route"].dependant):
            raise self._refused(Refusal(403, "insufficient_authorization", "No token covers this method and path."))


def _nothing() -> None:
    return


_nothing.__cab_asks__ = True  # type: ignore[attr-defined]


def _asks(dependant: Any) -> bool:
    return any(hasattr(one.call, "__cab_asks__") or _asks(one) for one in dependant.dependencies)

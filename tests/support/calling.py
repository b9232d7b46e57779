"""Agents that have tools called, and the platforms that are called."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.asgi import Answer
from tests.support.jose import present
from tests.support.web import Host, Sent, json_answer
from tests.support.world import ORIGIN, World, task

from cab.ports import HttpAnswer, SendFailed

MCP = f"{ORIGIN}/mcp"

Reply = HttpAnswer | SendFailed | Callable[[Sent], Awaitable[HttpAnswer]]


@dataclass
class Platform:
    """An API that answers calls by a script, its last line for ever; other requests go on to who was there before."""

    replies: list[Reply] = field(default_factory=lambda: [json_answer({"id": "t1"})])
    hits: list[Sent] = field(default_factory=list)
    before: Host | None = None

    async def __call__(self, sent: Sent) -> HttpAnswer:
        if self.before is not None and sent.path in ("/token", "/revoke"):
            return await self.before(sent)
        self.hits.append(sent)
        reply = self.replies[min(len(self.hits), len(self.replies)) - 1]
        if isinstance(reply, SendFailed):
            raise reply
        return reply if isinstance(reply, HttpAnswer) else await reply(sent)

    @property
    def tokens(self) -> list[str]:
        return [hit.headers["Authorization"].removeprefix("Bearer ") for hit in self.hits]


def platform_at(world: World, origin: str, *replies: Reply) -> Platform:
    platform = Platform(before=world.web.hosts.get(origin))
    if replies:
        platform.replies = list(replies)
    world.web.hosts[origin] = platform
    return platform


async def call_token(world: World, *, user: str = "alice", agent: str = "caller", **changes: Any) -> str:
    """A call token for a user whose task allows everything."""
    headers = changes.pop("headers", ())
    details = changes.pop("task", task(task_id="t-1"))
    assertion = await world.assertion(agent, user=user, task=details)
    form = await world.exchange_form(agent=agent, subject_token=assertion, resource=MCP)
    del form["authorization_details"]
    answer = await world.post("/oauth2/token", form | changes, headers=headers)
    assert answer.status == 200, answer.body
    token = str(answer.json["access_token"])
    world.secrets_seen.add(token)
    return token


async def call(
    world: World,
    token: str | None,
    tool: str | None = None,
    arguments: dict[str, Any] | None = None,
    *,
    scheme: str = "Bearer",
    headers: Iterable[tuple[str, str]] = (),
    **members: Any,
) -> Answer:
    """`POST /tools/call`."""
    body = present({"tool": tool, "arguments": arguments} | members)
    body = {name: value for name, value in body.items() if value is not None}
    authorization = [] if token is None else [("Authorization", f"{scheme} {token}")]
    return await world.request(
        "POST", "/tools/call", headers=[*authorization, *headers], body=json.dumps(body).encode()
    )

"""What a browser sends to the pages of `connect_account` and keeps of their answers, in process."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from tests.support.asgi import Answer
from tests.support.world import FORM, World


class Visits:
    """One browser's: its cookies go along with every request. Where an answer leads, the caller decides."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cookies: dict[str, str] = {}

    async def send(self, path: str, query: str, form: Mapping[str, str] | None) -> Answer:
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        answer = await self._world.request(
            "GET" if form is None else "POST",
            path,
            function="connect_account",
            query=query,
            headers=[*([("Cookie", cookies)] if cookies else []), *([] if form is None else [FORM])],
            body=b"" if form is None else urlencode(form).encode(),
        )
        for name, value in answer.headers:
            if name == "set-cookie":
                key, _, rest = value.partition("=")
                self._cookies[key] = rest.partition(";")[0]
        return answer

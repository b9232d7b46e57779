"""One HTTP request to an ASGI application in this process, byte for byte as given: no client library tidies it up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for known, value in self.headers if known == name.lower()]
        assert len(values) < 2, f"{name} is repeated"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def txn(self) -> str | None:
        return self.header("cab-txn")

    @property
    def refusal(self) -> tuple[int, str, str]:
        """HTTP status, `error`, `reason_code`."""
        return self.status, self.json["error"], self.json["reason_code"]

    @property
    def reason(self) -> str | None:
        """`reason_code`, None when the answer is no refusal."""
        reason: str | None = self.json.get("reason_code")
        return reason


async def request(
    app: Any,
    method: str,
    path: str,
    *,
    raw_path: bytes | None = None,
    query: str = "",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | Iterable[bytes] = b"",
    is_cut: bool = False,
    heard: Callable[[bytes], None] = lambda _: None,
) -> Answer:
    """Send one request. A `body` of several chunks arrives in as many messages; `is_cut`: then the caller goes away.
    `raw_path` is the path before its escapes were read, where it has any. `heard` is told each part of the answer's body."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": is_cut or number < len(chunks)}
        for number, chunk in enumerate(chunks, start=1)
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode() if raw_path is None else raw_path,
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": ("192.0.2.7", 50000),
        "server": ("127.0.0.1", 8080),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        heard(message.get("body", b""))

    await app(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    content = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    lowered = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start["headers"])
    return Answer(start["status"], lowered, content)

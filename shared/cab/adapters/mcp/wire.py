"""The SDK's HTTP transport, replaced: each message is one request of ours, to one address, with nothing followed or added.

What the SDK would do by itself is not let through: redirects, a stream of its own, a second `tools/call`, answers to what a server
asks, capabilities that the broker does not have.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx2

from cab.ports import AnswerTooLarge, HttpAnswer, HttpSender, SendFailed

CALL: Final = "tools/call"
LIST: Final = "tools/list"
_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
_NOT_OURS: Final = frozenset({"host", "content-length", "connection", "user-agent", "accept-encoding", "authorization"})
_NEEDED: Final = ("content-type", "mcp-session-id")
MOST_EVENTS: Final = 500  # of a stream, which the SDK takes the better part of a millisecond for, each
_EVENT: Final = re.compile(rb"(?:\A|[\r\n])data")


class Wire(httpx2.AsyncBaseTransport):
    """One connection to a server. `listed` is the answer that `tools/list` gets without asking again, when there is one.

    `answer` is what the server said last that ends it: to the call, or a refusal before it. `failure` is why it said nothing.
    `max_bytes` are of each answer, and of all pages of a list together.
    """

    def __init__(
        self,
        http: HttpSender,
        endpoint: str,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        max_bytes: int,
        elicits: bool = False,
        listed: dict[str, Any] | None = None,
    ) -> None:
        self._http = http
        self._endpoint = endpoint
        self._headers = dict(headers)
        self._until = asyncio.get_running_loop().time() + timeout_s
        self._max_bytes = self._left_of_list = max_bytes
        self._capabilities: dict[str, Any] = {"elicitation": {"url": {}}} if elicits else {}
        self._listed = listed
        self.call_sent = False
        self.answer: HttpAnswer | None = None
        self.failure: SendFailed | AnswerTooLarge | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(405, request=request)  # no stream beside the answers
        if request.url != httpx2.URL(self._endpoint) or request.method not in ("POST", "DELETE"):
            raise httpx2.UnsupportedProtocol("another address", request=request)
        body = await request.aread()
        method = None
        if request.method == "POST":
            message = json.loads(body)
            method = message.get("method")
            if (
                method is None
            ):  # the SDK's answer to what the server asked in a stream: that has ended, and may have asked thousands
                return httpx2.Response(202, request=request)
            if method == LIST and self._listed is not None:
                answered = {"jsonrpc": "2.0", "id": message["id"], "result": self._listed}
                return httpx2.Response(200, json=answered, request=request)
            if method == CALL and self.call_sent:
                raise httpx2.WriteError("the call was sent before", request=request)
            body = self._with_our_capabilities(message)
        return await self._send(request, body, method)

    async def _send(self, request: httpx2.Request, body: bytes, method: str | None) -> httpx2.Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_OURS}
        is_call, is_list = method == CALL, method == LIST
        self.call_sent = self.call_sent or is_call
        try:
            answer = await self._http.send(
                request.method,
                self._endpoint,
                body=body or None,
                headers=headers | self._headers,
                timeout_s=max(0.001, self._until - asyncio.get_running_loop().time()),
                max_bytes=self._left_of_list if is_list else self._max_bytes,
            )
            if answer.headers.get("content-type", "").startswith("text/event-stream") and _is_flood(answer.body):
                raise AnswerTooLarge(None, status=answer.status)
        except (SendFailed, AnswerTooLarge) as error:
            if method is not None:
                self.failure = self._as_of_the_call(error, is_call=is_call)
            raise httpx2.ReadError("no answer", request=request) from error
        if is_list:
            self._left_of_list -= len(answer.body)
        if method is not None and (is_call or answer.status >= 300):
            self.answer = answer
        if 300 <= answer.status < 400:
            raise httpx2.ReadError("a redirect", request=request)
        kept = {name: answer.headers[name] for name in _NEEDED if name in answer.headers}
        return httpx2.Response(answer.status, headers=kept, content=answer.body, request=request)

    @staticmethod
    def _as_of_the_call(error: SendFailed | AnswerTooLarge, *, is_call: bool) -> SendFailed | AnswerTooLarge:
        """What went wrong before the call was sent says of the call that it was not."""
        if is_call:
            return error
        return SendFailed(error.what if isinstance(error, SendFailed) else "provider", may_have_arrived=False)

    def _with_our_capabilities(self, message: dict[str, Any]) -> bytes:
        params = message.get("params")
        if isinstance(params, dict):
            if message.get("method") == "initialize":
                params["capabilities"] = self._capabilities
            meta = params.get("_meta")
            if isinstance(meta, dict) and _CAPABILITIES in meta:
                meta[_CAPABILITIES] = self._capabilities
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _is_flood(stream: bytes) -> bool:
    return sum(1 for _ in _EVENT.finditer(stream)) > MOST_EVENTS

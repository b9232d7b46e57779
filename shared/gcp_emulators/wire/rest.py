"""The same methods over REST: Google's documented paths and JSON, in front of the same `Gateway`.

The paths are written as in Google's public API definitions: `{field=pattern}` is a part of the path that is a field of the request,
and the body is the request (`*`), one field of it, or nothing. What else a request has comes as query parameters.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson
from aiohttp import web
from google.protobuf import json_format  # type: ignore[import-untyped,unused-ignore]

from gcp_emulators.wire.rpc import MAX_MESSAGE_BYTES, Gateway, Method, RpcError

if TYPE_CHECKING:
    from gcp_emulators.faults import Service

_DATABASE = "{database=projects/*/databases/*}/documents"
_TOPIC = "{topic=projects/*/topics/*}"
_SUBSCRIPTION = "{subscription=projects/*/subscriptions/*}"
_SECRET = "projects/*/secrets/*"
_VERSION = f"{{name={_SECRET}/versions/*}}"

# Method, verb, path below /v1/, body.
_RULES: Mapping[Service, tuple[tuple[str, str, str, str], ...]] = {
    "firestore": (
        ("GetDocument", "GET", "{name=projects/*/databases/*/documents/*/**}", ""),
        ("ListDocuments", "GET", "{parent=projects/*/databases/*/documents}/{collection_id}", ""),
        ("ListDocuments", "GET", "{parent=projects/*/databases/*/documents/*/**}/{collection_id}", ""),
        ("ListCollectionIds", "POST", "{parent=projects/*/databases/*/documents}:listCollectionIds", "*"),
        ("ListCollectionIds", "POST", "{parent=projects/*/databases/*/documents/*/**}:listCollectionIds", "*"),
        ("BatchGetDocuments", "POST", f"{_DATABASE}:batchGet", "*"),
        ("RunQuery", "POST", "{parent=projects/*/databases/*/documents}:runQuery", "*"),
        ("RunQuery", "POST", "{parent=projects/*/databases/*/documents/*/**}:runQuery", "*"),
        ("RunAggregationQuery", "POST", "{parent=projects/*/databases/*/documents}:runAggregationQuery", "*"),
        ("RunAggregationQuery", "POST", "{parent=projects/*/databases/*/documents/*/**}:runAggregationQuery", "*"),
        ("BeginTransaction", "POST", f"{_DATABASE}:beginTransaction", "*"),
        ("Commit", "POST", f"{_DATABASE}:commit", "*"),
        ("Rollback", "POST", f"{_DATABASE}:rollback", "*"),
        ("BatchWrite", "POST", f"{_DATABASE}:batchWrite", "*"),
    ),
    "pubsub": (
        ("CreateTopic", "PUT", "{name=projects/*/topics/*}", "*"),
        ("GetTopic", "GET", _TOPIC, ""),
        ("ListTopics", "GET", "{project=projects/*}/topics", ""),
        ("ListTopicSubscriptions", "GET", f"{_TOPIC}/subscriptions", ""),
        ("DeleteTopic", "DELETE", _TOPIC, ""),
        ("Publish", "POST", f"{_TOPIC}:publish", "*"),
        ("CreateSubscription", "PUT", "{name=projects/*/subscriptions/*}", "*"),
        ("GetSubscription", "GET", _SUBSCRIPTION, ""),
        ("ListSubscriptions", "GET", "{project=projects/*}/subscriptions", ""),
        ("UpdateSubscription", "PATCH", "{subscription.name=projects/*/subscriptions/*}", "*"),
        ("ModifyPushConfig", "POST", f"{_SUBSCRIPTION}:modifyPushConfig", "*"),
        ("DeleteSubscription", "DELETE", _SUBSCRIPTION, ""),
        ("Pull", "POST", f"{_SUBSCRIPTION}:pull", "*"),
        ("Acknowledge", "POST", f"{_SUBSCRIPTION}:acknowledge", "*"),
        ("ModifyAckDeadline", "POST", f"{_SUBSCRIPTION}:modifyAckDeadline", "*"),
    ),
    "secret_manager": (
        ("CreateSecret", "POST", "{parent=projects/*}/secrets", "secret"),
        ("GetSecret", "GET", f"{{name={_SECRET}}}", ""),
        ("UpdateSecret", "PATCH", f"{{secret.name={_SECRET}}}", "secret"),
        ("DeleteSecret", "DELETE", f"{{name={_SECRET}}}", ""),
        ("ListSecrets", "GET", "{parent=projects/*}/secrets", ""),
        ("AddSecretVersion", "POST", f"{{parent={_SECRET}}}:addVersion", "*"),
        ("GetSecretVersion", "GET", _VERSION, ""),
        ("ListSecretVersions", "GET", f"{{parent={_SECRET}}}/versions", ""),
        ("AccessSecretVersion", "GET", f"{_VERSION}:access", ""),
        ("EnableSecretVersion", "POST", f"{_VERSION}:enable", "*"),
        ("DisableSecretVersion", "POST", f"{_VERSION}:disable", "*"),
        ("DestroySecretVersion", "POST", f"{_VERSION}:destroy", "*"),
        ("SetIamPolicy", "POST", f"{{resource={_SECRET}}}:setIamPolicy", "*"),
        ("GetIamPolicy", "GET", f"{{resource={_SECRET}}}:getIamPolicy", ""),
        ("TestIamPermissions", "POST", f"{{resource={_SECRET}}}:testIamPermissions", "*"),
    ),
}
_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_VARIABLE = re.compile(r"\{([a-z_.]+)(?:=([^}]*))?\}")


@dataclass(frozen=True)
class _Route:
    method: Method
    verb: str
    path: re.Pattern[str]
    body: str

    def request(self, found: re.Match[str], query: str, body: bytes) -> Any:
        """The request as the method takes it. Raises: ValueError, json_format.ParseError."""
        fields: dict[str, Any] = {}
        if self.body:
            sent = orjson.loads(body) if body else {}
            if not isinstance(sent, dict):
                raise ValueError("The body is no object.")
            fields = sent if self.body == "*" else {self.body: sent}
        for name, value in parse_qsl(query):
            if not name.startswith("$"):  # of the system, such as how the answer is written
                _put(fields, name, value)
        for group, text in found.groupdict().items():
            _put(fields, group.replace("__", "."), unquote(text))
        message = json_format.ParseDict(fields, self.method.request.message())
        return self.method.request.decode(message.SerializeToString())

    def answer(self, response: Any) -> web.Response:
        codec = self.method.response
        parts = response if self.method.streams_responses else [response]
        documents = [json_format.MessageToDict(codec.message.FromString(codec.encode(part))) for part in parts]
        return _json(200, documents if self.method.streams_responses else documents[0])


def rest_server(gateway: Gateway, methods: Iterable[Method]) -> web.Server:
    """The HTTP server of one service. A request whose client goes away is cancelled, as over gRPC."""
    by_name = {method.name: method for method in methods}
    # Those with a word of their own at the end first: an id may hold anything but a slash.
    rules = sorted(_RULES[gateway.service], key=lambda rule: ":" not in rule[2])
    routes = [_Route(by_name[name], verb, _pattern(path), body) for name, verb, path, body in rules]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if urlsplit(f"//{request.host}").hostname not in _LOOPBACK_NAMES:
            return web.Response(status=403, text="This server answers loopback requests only.\n")
        path, _, query = request.raw_path.partition("?")
        for route in routes:
            found = route.path.fullmatch(path) if route.verb == request.method else None
            if found is not None:
                return await _answer(gateway, route, found, query, request)
        return web.Response(status=404, text="There is no such method here.\n" if path != "/" else "Ok\n")

    def make(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=2 * MAX_MESSAGE_BYTES)

    return web.Server(answer, request_factory=make, handler_cancellation=True, access_log=None)


async def _answer(
    gateway: Gateway, route: _Route, found: re.Match[str], query: str, request: web.BaseRequest
) -> web.Response:
    came_at = time.perf_counter()
    body = await request.read()
    if route.body and request.content_type != "application/json":  # a browser cannot send it across origins unasked
        return web.Response(status=415, text="The body must be application/json.\n")
    try:
        asked = route.request(found, query, body)
    except (ValueError, json_format.ParseError) as error:
        return _error(route, "INVALID_ARGUMENT", f"Invalid request: {error}")
    try:
        return route.answer(await gateway.perform(route.method, asked, None, came_at=came_at))
    except RpcError as error:
        return _error(route, error.status.name, error.details)


def _error(route: _Route, status: str, message: str) -> web.Response:
    code = _STATUS.get(status, 500)
    document: Any = {"error": {"code": code, "message": message, "status": status}}
    return _json(code, [document] if route.method.streams_responses else document)


def _json(status: int, document: Any) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json", charset="UTF-8")


def _put(fields: dict[str, Any], name: str, value: Any) -> None:
    """Set a field that may be inside another; what comes several times is a list."""
    outer, _, inner = name.partition(".")
    if inner:
        nested = fields.setdefault(outer, {})
        _put(nested, inner, value)
    elif outer in fields and isinstance(fields[outer], str):
        fields[outer] = [fields[outer], value]
    else:
        fields[outer] = value


def _pattern(path: str) -> re.Pattern[str]:
    """The expression of a path as Google writes it."""
    made, at = "/v1/", 0
    for variable in _VARIABLE.finditer(path):
        made += re.escape(path[at : variable.start()])
        pattern = "/".join(
            {"*": "[^/]+", "**": ".+"}.get(part, re.escape(part)) for part in (variable[2] or "*").split("/")
        )
        made += f"(?P<{variable[1].replace('.', '__')}>{pattern})"
        at = variable.end()
    return re.compile(made + re.escape(path[at:]))

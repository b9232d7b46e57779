"""How an action's call is made: the `call` section of its catalog entry. What it becomes for one intent is `domain.calls.rendering`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from cab.domain.configured.model import StrictModel

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
ID: Final = "id"  # the placeholder for the last part of the identifier
_SEGMENT = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=:@{}-]|%[0-9A-Fa-f]{2})*")  # RFC 3986 section 3.3, and placeholders
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
# What the broker sets itself, what names another host or hop, and what carries credentials (RFC 9110, RFC 6265).
_NOT_FOR_CATALOGS: Final = frozenset(
    {
        "authorization",
        "cookie",
        "set-cookie",
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "forwarded",
        "via",
        "content-length",
        "content-type",
        "content-encoding",
        "accept",
        "accept-encoding",
        "user-agent",
        "traceparent",
        "tracestate",
        "dpop",
    }
)
Json = Any  # a JSON value of the configuration: text may be a placeholder


class HttpMethod(StrEnum):
    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


_DEFINITION: Final = r"^sha-256:[A-Za-z0-9_-]{43}\Z"
_REPEATABLE: Final = frozenset(
    {HttpMethod.GET, HttpMethod.HEAD, HttpMethod.PUT, HttpMethod.DELETE}
)  # RFC 9110 section 9.2.2


class Result(StrictModel):
    """What of the platform's answer the agent gets."""

    select: tuple[str, ...] = Field(default=(), description="The only members given on, by name or JSON pointer.")
    omit: tuple[str, ...] = Field(default=(), description="Members left out, by name or JSON pointer.")
    items: str | None = Field(default=None, description="JSON pointer to the list, where the answer is one page of it.")
    next: str | None = Field(default=None, description="JSON pointer to the cursor of the next page.")
    max_items: int = Field(default=100, ge=1, le=1000, description="Most items of the list given on.")
    max_bytes: int = Field(default=65_536, ge=256, le=1_048_576, description="Largest result, over all that is sent.")
    type: str | None = Field(
        default=None,
        pattern=r"^[a-z]+/[a-z0-9.+-]+\Z",
        description="Media type of an answer that is neither JSON nor plain text.",
    )


class McpCall(StrictModel):
    """The call of a tool of an MCP server, for connections with `mcp`. Its definition is pinned; its texts are never shown."""

    tool: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+\Z", max_length=128)] = Field(
        description="Name of the tool at the server."
    )
    arguments: dict[str, Json] = Field(
        default_factory=dict,
        description='Arguments; `"{name}"` stands for a whole parameter; absent parameter: absent argument.',
    )
    definition: Annotated[str, StringConstraints(pattern=_DEFINITION)] = Field(
        description="Pin of the definition that was reviewed, as `cab config import-mcp` writes it."
    )
    idempotent: bool = Field(default=False, description="Whether twice is the same as once.")
    timeout_s: int = Field(default=10, ge=1, le=60, description="Longest wait for the whole call.")
    result: Result = Field(default_factory=Result, description="What of the answer is given on.")

    @model_validator(mode="after")
    def _is_well_formed(self) -> McpCall:
        if _has_floats(self.arguments):
            raise ValueError("numbers in the arguments must be whole")
        return self

    @property
    def is_idempotent(self) -> bool:
        return self.idempotent

    def placeholders(self) -> frozenset[str]:
        """See `Call.placeholders`."""
        return frozenset(_placeholders(self.arguments))

    def always_needed(self) -> frozenset[str]:
        """See `Call.always_needed`."""
        return frozenset(_in_lists(self.arguments))


class Call(StrictModel):
    """The request that the broker sends for this action. `"{name}"` stands for a whole parameter and keeps its type."""

    method: HttpMethod = Field(description="HTTP method.")
    path: Annotated[str, StringConstraints(pattern=r"^/[^?#\\]*\Z", max_length=500)] = Field(
        description="Under api_base, percent-encoded as it is sent; parameters and {id} as whole segments."
    )
    query: dict[str, str | int | bool] = Field(
        default_factory=dict, description="Pairs of the query; absent parameter: absent pair."
    )
    body: Json = Field(default=None, description="JSON value to send; absent parameter: absent member.")
    encoding: Literal["json", "form"] = Field(default="json", description="How the body is written.")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers that are sent as written here.")
    idempotent: bool | None = Field(
        default=None, description="Whether twice is the same as once; default: by the method, as HTTP defines it."
    )
    idempotency_key: str | None = Field(
        default=None, description="Header by which the platform recognises a repetition; makes repeating safe."
    )
    timeout_s: int = Field(default=10, ge=1, le=60, description="Longest wait for the whole call.")
    success: tuple[Annotated[int, Field(ge=200, le=299)], ...] = Field(
        default=(), description="Statuses that mean done; default: any 2xx."
    )
    result: Result = Field(default_factory=Result, description="What of the answer is given on.")

    @model_validator(mode="after")
    def _is_well_formed(self) -> Call:
        for segment in self.path.split("/")[1:]:
            if ("{" in segment or "}" in segment) and not PLACEHOLDER.fullmatch(segment):
                raise ValueError("a parameter in the path must be a whole segment")
            if not _SEGMENT.fullmatch(segment):
                raise ValueError(
                    "the path must be written as it is sent: percent-encode what is no letter, digit or mark"
                )
            if not {".", ".."}.isdisjoint(re.split(r"[/\\]", unquote(segment))):
                raise ValueError("the path must not hold . or .. segments")
        if self.body is not None and self.method in (HttpMethod.GET, HttpMethod.HEAD):
            raise ValueError("a GET or HEAD call has no body")
        if _has_floats(self.body):
            raise ValueError("numbers in the body must be whole")
        if self.encoding == "form" and not _is_flat(self.body):
            raise ValueError("a form body is an object of plain values")
        for name in (*self.headers, *([self.idempotency_key] if self.idempotency_key else [])):
            lower = name.lower()
            if (
                not _HEADER.fullmatch(name)
                or lower in _NOT_FOR_CATALOGS
                or lower.startswith(("proxy-", "x-forwarded-"))
            ):
                raise ValueError(f"the header {name} cannot be set by a catalog")
        if any("\r" in value or "\n" in value for value in self.headers.values()):
            raise ValueError("a header value is one line")
        return self

    @property
    def is_idempotent(self) -> bool:
        return self.method in _REPEATABLE if self.idempotent is None else self.idempotent

    def placeholders(self) -> frozenset[str]:
        """Every parameter that the request carries, and `id` when the identifier's last part is in it."""
        return frozenset(_placeholders([*self.path.split("/"), self.query, self.body]))

    def always_needed(self) -> frozenset[str]:
        """Parameters without which there is no request, or one that could be another intent's: of the path and of lists."""
        return frozenset(_placeholders(self.path.split("/"))) | frozenset(_in_lists(self.body))


def _kind_of_call(value: object) -> str:
    is_tool = "tool" in value if isinstance(value, dict) else isinstance(value, McpCall)
    return "tool" if is_tool else "request"


AnyCall = Annotated[Annotated[Call, Tag("request")] | Annotated[McpCall, Tag("tool")], Discriminator(_kind_of_call)]


def placeholder(value: object) -> str | None:
    """The parameter that `value` stands for, None for a literal."""
    found = PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found else None


def _placeholders(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for member in value.values():
            yield from _placeholders(member)
    elif isinstance(value, list):
        for item in value:
            yield from _placeholders(item)
    elif (name := placeholder(value)) is not None:
        yield name


def _in_lists(value: object) -> Iterator[str]:
    if isinstance(value, list):
        yield from _placeholders(value)
    elif isinstance(value, dict):
        for member in value.values():
            yield from _in_lists(member)


def _has_floats(value: object) -> bool:
    """RFC 8785 writes them, and other readers differ: nothing that is hashed holds one."""
    if isinstance(value, dict):
        return any(map(_has_floats, value.values()))
    return isinstance(value, float) or (isinstance(value, list) and any(map(_has_floats, value)))


def _is_flat(body: Json) -> bool:
    return body is None or (
        isinstance(body, dict) and not any(isinstance(value, dict | list) for value in body.values())
    )

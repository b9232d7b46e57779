"""The pin of a tool's definition: what was reviewed, in one value that no change of it leaves as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import rfc8785

from cab.domain.identifiers import base64url

PINNED: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
# What the protocol knows of annotations (MCP 2026-07-28, ToolAnnotations). The SDK keeps nothing else, so no pin holds it either.
_ANNOTATIONS: Final = ("title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


def definition_pin(tool: Mapping[str, Any]) -> str | None:
    """`sha-256:` over the RFC 8785 form of the pinned members of a listed tool; None for what has no such form."""
    pinned = {name: tool[name] for name in PINNED if tool.get(name) is not None}
    if isinstance(hints := pinned.get("annotations"), Mapping):
        pinned["annotations"] = {name: hints[name] for name in _ANNOTATIONS if hints.get(name) is not None}
    try:
        return "sha-256:" + base64url(hashlib.sha256(rfc8785.dumps(pinned)).digest())
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return None


def pins_of(tools: list[Mapping[str, Any]]) -> dict[str, str | None]:
    """The pin of each listed tool by name; None where there is none, and for a name that is listed twice."""
    pins: dict[str, str | None] = {}
    for tool in tools:
        name = str(tool.get("name"))
        pins[name] = None if name in pins else definition_pin(tool)
    return pins

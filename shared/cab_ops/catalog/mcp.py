"""Catalog entries from the tools that an MCP server lists, and whether those of a configuration are still what was reviewed.

The server's words go into comments for the reviewer, never into the entry: models read titles and descriptions.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from cab.domain.calls.pins import definition_pin, pins_of
from cab.domain.calls.tools import MAX_NAME_CHARS
from cab.domain.configured.actions import Action
from cab.domain.configured.calls import McpCall
from cab.domain.configured.connections import Connection
from cab_ops.catalog.documents import Document, DocumentRefused, as_list, as_object, shown
from cab_ops.catalog.openapi import Entry, prefix_of, snake
from cab_ops.catalog.schemas import Unmapped, merged, parameter_of


def import_tools(
    tools: list[dict[str, Any]], *, connection: str, chosen: tuple[str, ...]
) -> tuple[list[Entry], dict[str, str]]:
    """Entries for the tools named, `NAME` or `NAME=ACTION`, and by name why there is none."""
    entries: dict[str, Entry] = {}
    refused = {}
    for one in chosen:
        is_name = any(tool.get("name") == one for tool in tools)
        name, _, action_id = (one, "", "") if is_name else one.partition("=")
        action_id = action_id or f"{prefix_of(connection)}.{snake(name)}"
        found = [tool for tool in tools if tool.get("name") == name]
        try:
            if len(found) != 1:
                raise Unmapped("is not listed" if not found else "is listed more than once")
            if action_id in entries:
                raise Unmapped(f"its action would be {shown(action_id)}, as that of another one: name one with =ACTION")
            entries[action_id] = _entry(found[0], action_id)
        except (Unmapped, DocumentRefused) as why:
            refused[name] = str(why)
    return list(entries.values()), refused


def compare(connection: Connection, tools: list[dict[str, Any]]) -> dict[str, str]:
    """By action: `same`, `changed`, or `missing`, which a name that is listed twice counts as."""
    pins = pins_of(list(tools))
    found = {}
    for action in connection.actions:
        if isinstance(action.call, McpCall):
            pin = pins.get(action.call.tool)
            found[action.id] = "missing" if pin is None else "same" if pin == action.call.definition else "changed"
    return found


def _entry(tool: dict[str, Any], action_id: str) -> Entry:
    pin = definition_pin(tool)
    if pin is None:
        raise Unmapped("has a definition without a canonical form")
    if len(action_id) > MAX_NAME_CHARS:
        raise Unmapped(
            f"its action would be {action_id}, longer than {MAX_NAME_CHARS} characters: name one with =ACTION"
        )
    hints = as_object(tool.get("annotations"))
    notes = [f"The server says: {shown(tool.get('description') or tool.get('title') or 'nothing', limit=300)}"]
    notes.append("Write title and description yourself: models read them, and the server's own are never shown.")
    if hints.get("readOnlyHint") is True:
        notes.append("The server says that it only reads: make the effect `read` if that is so.")
    parameters, arguments = _parameters(tool, notes)
    action = {
        "id": action_id,
        "title": action_id.rpartition(".")[2].replace("_", " ").capitalize(),
        "effect": "write"
        if hints.get("destructiveHint") is False or hints.get("readOnlyHint") is True
        else "destructive",
        "identifier": f"{snake(str(tool['name']))}/*",
        "parameters": parameters,
        "call": {"tool": tool["name"], "arguments": arguments, "definition": pin},
    }
    try:
        Action.model_validate(action)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise Unmapped(shown(f"does not fit the catalog: {'.'.join(map(str, first['loc']))} {first['msg']}")) from None
    return Entry(action, notes)


def _parameters(tool: dict[str, Any], notes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    document = Document(tool.get("inputSchema") or {})
    schema = merged(document, document.content)
    required = [str(name) for name in as_list(schema.get("required"))]
    properties = as_object(schema.get("properties"))
    parameters: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for name in required:
        if name not in properties:
            raise Unmapped(f"{shown(name)} is required and is not described")
    if schema.get("additionalProperties") not in (None, False) or schema.get("patternProperties"):
        notes.append("left out: arguments that the tool does not name")
    for name, given in properties.items():
        own = snake(name)
        try:
            if own in parameters:
                raise Unmapped("has the name of another when written in small letters")
            parameter = parameter_of(document, merged(document, given))
        except (Unmapped, DocumentRefused) as why:
            if name in required:
                raise Unmapped(f"{shown(name)} is required and {why}") from None
            notes.append(f"left out: {shown(name)} {why}")
            continue
        parameters[own] = parameter | ({"required": True} if name in required else {})
        arguments[name] = f"{{{own}}}"
    return parameters, arguments

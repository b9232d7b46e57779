"""Callable actions as the tools of agents: their names, schemas and hints, and the intent that a call of one declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from cab.domain.calls.rendering import is_keyed
from cab.domain.configured.actions import IDENTIFIER_PART, Action, Effect, Parameter, tool_scope
from cab.domain.configured.calls import ID
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.identifiers import is_printable
from cab.domain.intents import malformed
from cab.domain.text.patterns import covered_by_any
from cab.values import immutable

MAX_NAME_CHARS: Final = 45  # clients put a prefix of their own before it, and stop at 64
REASON: Final = "reason"
MAX_REASON_CHARS: Final = 500
_ID_PATTERN: Final = f"^{IDENTIFIER_PART.pattern}$".replace(
    r"\Z", "$"
)  # as ECMA-262 writes it, which JSON Schema goes by


@immutable
class CallableTool:
    name: str
    action: Action
    connection: Connection


def tool_name(action_id: str) -> str:
    """Dots break clients in the field. Names are unique in a deployment: `cab config validate` sees to it."""
    return action_id.replace(".", "_")


def tools_of(
    deployment: Deployment,
    agent: Agent,
    tenant: str,
    scopes: Iterable[str],
    task_actions: tuple[str, ...] | None,
    *,
    callable_only: bool = True,
) -> tuple[CallableTool, ...]:
    """The agent's callable actions within its own bounds, these scopes and these patterns (None: no task), sorted by name.

    Without `callable_only`, those too for which it can only ask a token.
    """
    granted = frozenset(scopes)
    tools = [
        CallableTool(tool_name(action.id), action, connection)
        for connection in deployment.connections
        if tenant in connection.tenants
        for action in connection.actions
        if (action.call is not None or not callable_only)
        and deployment.zones_allow(agent, connection, calls=action.call is not None)
        and covered_by_any(agent.actions, action.id)
        and action.effect in agent.effects
        and tool_scope(action.effect) in granted
        and (task_actions is None or covered_by_any(task_actions, action.id))
    ]
    return tuple(sorted(tools, key=lambda tool: tool.name))


def input_schema(action: Action) -> dict[str, Any]:
    """JSON Schema 2020-12 of the arguments: the identifier's last part as `id`, the parameters, and optionally why."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    if _has_id(action):
        what = action.identifier.removesuffix("/{id}").rpartition("/")[2]
        properties[ID] = {"type": "string", "pattern": _ID_PATTERN, "description": f"Which {what}."}
        required.append(ID)
    for name, parameter in action.parameters.items():
        properties[name] = _schema_of(parameter)
        if parameter.required:
            required.append(name)
    if REASON not in properties:
        properties[REASON] = {
            "type": "string",
            "maxLength": MAX_REASON_CHARS,
            "description": "Why, in one sentence. People who are asked to agree see it.",
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def hints_of(action: Action) -> dict[str, Any]:
    """Hints of the Model Context Protocol. They never claim less danger than there may be."""
    reads, call = action.effect is Effect.READ, action.call
    return {
        "title": action.title,
        "readOnlyHint": reads,
        "destructiveHint": action.effect is Effect.DESTRUCTIVE,
        "idempotentHint": reads or (call is not None and (call.is_idempotent or is_keyed(action))),
        "openWorldHint": True,
    }


def detail_of(
    action: Action, connection: Connection, arguments: Mapping[str, Any], reason: str | None
) -> dict[str, Any]:
    """The authorization detail that declares this call. `reason` may also be among the arguments, as the schema says.

    Raises: BrokerError INTENT_MALFORMED, naming the argument at fault.
    """
    given = dict(arguments)
    if REASON not in action.parameters and REASON in given:
        reason = given.pop(REASON)
        if not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS:
            raise malformed(REASON, "is not a short text")
    identifier = action.identifier
    if _has_id(action):
        part = given.pop(ID, None)
        if not isinstance(part, str) or not IDENTIFIER_PART.fullmatch(part):
            raise malformed(ID, "is missing or not of the form that identifiers have")
        identifier = identifier.removesuffix("{id}") + part
    for name, value in given.items():
        parameter = action.parameters.get(name)
        if parameter is None:
            raise malformed(name if is_printable(name, max_length=64) else "arguments", "is no argument of this tool")
        if problem := parameter.problem(value):
            raise malformed(name, problem)
    for name, parameter in action.parameters.items():
        if parameter.required and name not in given:
            raise malformed(name, "is required")
    detail: dict[str, Any] = {
        "type": "cab_action",
        "actions": [action.id],
        "locations": [connection.resource],
        "identifier": identifier,
        "parameters": given,
    }
    return detail if reason is None else detail | {REASON: reason}


def _has_id(action: Action) -> bool:
    return action.identifier.endswith("{id}")


def _schema_of(parameter: Parameter) -> dict[str, Any]:
    match parameter.type:
        case "boolean":
            schema: dict[str, Any] = {"type": "boolean"}
        case "integer":
            schema = {"type": "integer", "minimum": parameter.minimum, "maximum": parameter.maximum}
        case "strings":
            items: dict[str, Any] = {"type": "string", "maxLength": parameter.longest}
            if parameter.values:
                items["enum"] = list(parameter.values)
            schema = {"type": "array", "items": items, "minItems": 1, "maxItems": parameter.max_items}
        case "string" | "text":
            schema = {"type": "string", "maxLength": parameter.longest}
            if parameter.values:
                schema["enum"] = list(parameter.values)
    if parameter.default is not None:
        schema["default"] = parameter.default
    if parameter.description is not None:
        schema["description"] = parameter.description
    return schema

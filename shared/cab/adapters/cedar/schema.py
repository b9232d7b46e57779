"""The Cedar schema of a deployment, generated from its action catalog. Policies are type-checked against it; see docs/policies.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cab.domain.configured.actions import Action, Effect, Parameter
from cab.domain.configured.deployment import Deployment

NAMESPACE = "CAB"
USER, GROUP, RESOURCE, CONNECTION, ACTION = (
    f"{NAMESPACE}::{name}" for name in ("User", "Group", "Resource", "Connection", "Action")
)

_STRING = {"type": "String"}
_LONG = {"type": "Long"}
_BOOLEAN = {"type": "Boolean"}
_STRINGS = {"type": "Set", "element": _STRING}
_CEDAR_TYPE: dict[str, dict[str, Any]] = {
    "string": _STRING,
    "text": _STRING,
    "strings": _STRINGS,
    "integer": _LONG,
    "boolean": _BOOLEAN,
}


def _optional(cedar_type: dict[str, Any]) -> dict[str, Any]:
    return {**cedar_type, "required": False}


def _record(**attributes: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Record", "attributes": attributes}


def _one_of(names: Iterable[str]) -> dict[str, Any]:
    """An entity type whose only members are `names`: Cedar then refuses a policy that names another."""
    known = sorted(set(names))
    return {"enum": known} if known else {}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    always_there = parameter.required or parameter.default is not None
    cedar_type = _CEDAR_TYPE[parameter.type]
    return cedar_type if always_there else _optional(cedar_type)


def _context(action: Action) -> dict[str, Any]:
    return _record(
        agent=_record(id=_STRING, trust_zone=_STRING, mode=_STRING),
        chain=_STRINGS,
        parameters={
            "type": "Record",
            "attributes": {name: _parameter(parameter) for name, parameter in action.parameters.items()},
        },
        task=_record(present=_BOOLEAN, comparison=_STRING),
        trigger=_STRING,
        auth=_record(age_s=_optional(_LONG), acr=_optional(_STRING), amr=_STRINGS),
        time=_record(epoch_s=_LONG, hour_utc=_LONG, weekday=_STRING),
    )


def known_groups(deployment: Deployment) -> set[str]:
    """Every group name that the identity providers' maps can give a user."""
    return {group for provider in deployment.identity_providers for group in provider.groups.values()}


def action_groups(action: Action, connection: str) -> tuple[str, str]:
    """The action groups of an action: its effect and its connection."""
    return (action.effect.value, connection)


def cedar_schema(deployment: Deployment, *, any_group: bool = False) -> dict[str, Any]:
    """The schema in Cedar's JSON form, complete: entity types, action groups and one action per catalog entry.

    `any_group` accepts every group, for when the identity providers could not be read.
    """
    actions: dict[str, Any] = {effect.value: {} for effect in Effect}
    for connection in deployment.connections:
        actions[connection.id] = {}
        for action in connection.actions:
            if (
                action.id in actions
            ):  # twice in the catalog is reported there: the first is what policies were written for
                continue
            actions[action.id] = {
                "memberOf": [{"id": group} for group in action_groups(action, connection.id)],
                "appliesTo": {
                    "principalTypes": ["User"],
                    "resourceTypes": ["Resource"],
                    "context": _context(action),
                },
            }
    entity_types = {
        "User": {"memberOfTypes": ["Group"], "shape": _record(tenant=_STRING)},
        "Group": {} if any_group else _one_of(known_groups(deployment)),
        "Connection": _one_of(connection.id for connection in deployment.connections),
        "Resource": {
            "memberOfTypes": ["Connection"],
            "shape": _record(identifier=_STRING, connection=_STRING, trust_zone=_STRING),
        },
    }
    return {NAMESPACE: {"entityTypes": entity_types, "actions": actions}}

"""The user and the resource of a decision as Cedar entities, cut down to what the rules at hand read (as `context` is)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from cedarpy import pst

from cab.adapters.cedar.rules import Rule
from cab.adapters.cedar.schema import ACTION, CONNECTION, GROUP, RESOURCE, USER, action_groups
from cab.adapters.cedar.vocabulary import paths_read
from cab.domain.configured.actions import Action
from cab.values import immutable

_USER_ATTRIBUTES = frozenset({"tenant"})
_RESOURCE_ATTRIBUTES = frozenset({"identifier", "connection", "trust_zone"})


@immutable
class EntityReads:
    """The attributes that the rules read. `resource` is None where no rule looks at the resource at all."""

    user: frozenset[str]
    resource: frozenset[str] | None


EVERYTHING = EntityReads(_USER_ATTRIBUTES, _RESOURCE_ATTRIBUTES)


def entity_reads(rules: Iterable[Rule]) -> EntityReads:
    """A variable that a condition takes as a whole is given with all its attributes."""
    rules = tuple(rules)
    paths = {path for rule in rules for path in paths_read(rule)}
    looked_at = any(path[0] == "resource" for path in paths) or any(
        not isinstance(rule.form.resource, pst.ScopeAny) for rule in rules
    )
    return EntityReads(
        _read(paths, "principal", _USER_ATTRIBUTES),
        _read(paths, "resource", _RESOURCE_ATTRIBUTES) if looked_at else None,
    )


def _read(paths: Iterable[tuple[str, ...]], variable: str, attributes: frozenset[str]) -> frozenset[str]:
    members = {path[1] if len(path) > 1 else None for path in paths if path[0] == variable}
    return attributes if None in members else attributes & members


def action_entity(action: Action, connection: str) -> str:
    parents = [(ACTION, group) for group in action_groups(action, connection)]
    return orjson.dumps([_entity(ACTION, action.id, parents, {})]).decode()


def user_entity(subject: str, tenant: str, groups: tuple[str, ...], reads: EntityReads) -> str:
    attributes = {"tenant": tenant} if "tenant" in reads.user else {}
    return orjson.dumps([_entity(USER, subject, [(GROUP, group) for group in groups], attributes)]).decode()


def resource_entity(name: str, connection: str, zone: str, identifier: str, attributes: frozenset[str]) -> str:
    """`zone`: the connection's trust zone, empty where it is in none."""
    values = {"identifier": identifier, "connection": connection, "trust_zone": zone}
    kept = {attribute: values[attribute] for attribute in attributes}
    return orjson.dumps([_entity(RESOURCE, name, [(CONNECTION, connection)], kept)]).decode()


def _entity(kind: str, name: str, parents: list[tuple[str, str]], attributes: dict[str, str]) -> dict[str, Any]:
    return {
        "uid": {"type": kind, "id": name},
        "attrs": attributes,
        "parents": [{"type": parent, "id": parent_name} for parent, parent_name in parents],
    }

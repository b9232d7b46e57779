"""Who may do what, read from the state of an applied module: one line for each identity, role and resource."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

State = Mapping[str, Any]
Right = tuple[str, str, str]  # identity, role or the permissions of a role of ours, resource
_WHERE = ("topic", "subscription", "secret_id", "table_id", "service_account_id", "name", "dataset_id", "project")


def resources(module: State) -> Iterator[State]:
    yield from module.get("resources", ())
    for child in module.get("child_modules", ()):
        yield from resources(child)


def rights(state: State) -> set[Right]:
    """Everything that some `google_..._iam_...` resource of the state gives."""
    found = list(resources(state["root_module"]))
    identities, roles, names = _identities(found), _own_roles(found), _accounts(found)
    given = set()
    for it in found:
        if "_iam_" not in it["type"] or it["type"].endswith("_custom_role"):
            continue
        values = it["values"]
        role = roles.get(values["role"], values["role"])
        for member in values.get("members") or [values["member"]]:
            given.add((identities.get(member, member), role, _resource(it, names)))
    return given


def _identities(found: list[State]) -> dict[str, str]:
    return {
        it["values"]["member"]: str(it.get("index", it["name"]))
        for it in found
        if it["type"] == "google_service_account"
    }


def _accounts(found: list[State]) -> dict[str, str]:
    """Generated names of accounts, as resources."""
    return {
        it["values"]["name"]: f"account {it.get('index', it['name'])}"
        for it in found
        if it["type"] == "google_service_account"
    }


def _own_roles(found: list[State]) -> dict[str, str]:
    return {
        it["values"]["id"]: ", ".join(sorted(it["values"]["permissions"]))
        for it in found
        if it["type"] == "google_project_iam_custom_role"
    }


def _resource(it: State, names: Mapping[str, str]) -> str:
    """A name that people recognise; with a condition, what the condition bounds it to."""
    values = it["values"]
    kind = re.sub(r"^google_|_iam_(member|binding)$", "", it["type"])
    key = next(name for name in _WHERE if values.get(name))
    where = names.get(values[key], values[key])
    condition = (values.get("condition") or [None])[0]
    bound = "" if condition is None else f" if {condition['expression']}"
    return f"{kind} {where}{bound}"

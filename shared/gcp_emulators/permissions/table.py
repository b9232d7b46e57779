"""Who may call what: the permissions that each method of Google's APIs needs, and a file that says who has them.

The file is JSON, a list of `{"identity", "permissions", "resource", "condition"}`; `resource` is a full name, where `*` at the end
stands for the rest, and holds for everything below it, as IAM inherits. `condition` is an IAM condition on
`resource.name`, or null. The file is read again when it was changed. Beside it, in a file with `.used` at its end, stands each permission
that was used, once for each process: what was given and never used is too much.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcp_emulators.permissions.projects import project_number

if TYPE_CHECKING:
    from gcp_emulators.faults import Service

CALLER: ContextVar[tuple[Table, str] | None] = ContextVar("CALLER", default=None)
"""On whose behalf a method runs, where permissions are looked at: the table, and the identity."""

_TERM = re.compile(r'(?P<no>!?)resource\.name(?: == "(?P<is>[^"]*)"|\.startsWith\("(?P<starts>[^"]*)"\))')
_PROJECT = re.compile(r"projects/([^/]+)")
_ROLES = Path(__file__).parent / "roles.json"

# The permissions that a method needs, from the access control pages of each product.
_NEEDS: dict[Service, dict[str, tuple[str, ...]]] = {
    "firestore": {
        "GetDocument": ("datastore.entities.get",),
        "BatchGetDocuments": ("datastore.entities.get",),
        "ListDocuments": ("datastore.entities.get", "datastore.entities.list"),
        "ListCollectionIds": ("datastore.entities.list",),
        "RunQuery": ("datastore.entities.get", "datastore.entities.list"),
        "RunAggregationQuery": ("datastore.entities.get", "datastore.entities.list"),
        "BeginTransaction": ("datastore.databases.get",),
        "Rollback": ("datastore.databases.get",),
    },
    "secret_manager": {
        "CreateSecret": ("secretmanager.secrets.create",),
        "GetSecret": ("secretmanager.secrets.get",),
        "UpdateSecret": ("secretmanager.secrets.update",),
        "DeleteSecret": ("secretmanager.secrets.delete",),
        "ListSecrets": ("secretmanager.secrets.list",),
        "AddSecretVersion": ("secretmanager.versions.add",),
        "GetSecretVersion": ("secretmanager.versions.get",),
        "ListSecretVersions": ("secretmanager.versions.list",),
        "AccessSecretVersion": ("secretmanager.versions.access",),
        "EnableSecretVersion": ("secretmanager.versions.enable",),
        "DisableSecretVersion": ("secretmanager.versions.disable",),
        "DestroySecretVersion": ("secretmanager.versions.destroy",),
        "SetIamPolicy": ("secretmanager.secrets.setIamPolicy",),
        "GetIamPolicy": ("secretmanager.secrets.getIamPolicy",),
        "TestIamPermissions": (),
    },
    "pubsub": {
        "Publish": ("pubsub.topics.publish",),
        "GetTopic": ("pubsub.topics.get",),
        "ListTopics": ("pubsub.topics.list",),
        "GetSubscription": ("pubsub.subscriptions.get",),
        "Pull": ("pubsub.subscriptions.consume",),
        "StreamingPull": ("pubsub.subscriptions.consume",),
        "Acknowledge": ("pubsub.subscriptions.consume",),
        "ModifyAckDeadline": ("pubsub.subscriptions.consume",),
    },
}


def permissions_of(role: str) -> frozenset[str]:
    """What a predefined role gives, of the roles that are listed in roles.json. Raises: KeyError."""
    return frozenset(json.loads(_ROLES.read_text("utf-8"))[role])


def predefined() -> set[frozenset[str]]:
    """What each of those roles gives."""
    return {frozenset(given) for given in json.loads(_ROLES.read_text("utf-8")).values()}


@dataclass(frozen=True)
class Condition:
    """An IAM condition that compares `resource.name`: terms that must all hold.

    Raises: ValueError for any other expression: a condition that is not understood must not count as met.
    """

    expression: str

    def __post_init__(self) -> None:
        for term in self.expression.split(" && "):
            if _TERM.fullmatch(term) is None:
                raise ValueError(f"this condition is not understood: {self.expression}")

    def holds(self, name: str) -> bool:
        return all(self._term(term, name) for term in self.expression.split(" && "))

    @staticmethod
    def _term(term: str, name: str) -> bool:
        found = _TERM.fullmatch(term)
        if found is None:
            raise ValueError(term)
        met = name == found["is"] if found["is"] is not None else name.startswith(found["starts"])
        return met != bool(found["no"])


@dataclass(frozen=True)
class Binding:
    """One row of the file."""

    identity: str
    permissions: frozenset[str]
    resource: str
    condition: Condition | None

    def gives(self, permission: str, resource: str, name: str) -> bool:
        if permission not in self.permissions or not _covers(self.resource, resource):
            return False
        return self.condition is None or self.condition.holds(name)


def _covers(granted: str, resource: str) -> bool:
    if granted.endswith("*"):
        return resource.startswith(granted[:-1])
    return resource == granted or resource.startswith(granted + "/")


def bindings_of(rows: Iterable[dict[str, Any]]) -> list[Binding]:
    """The rows of a file. Raises: KeyError, ValueError."""
    return [
        Binding(
            row["identity"],
            frozenset(row["permissions"]),
            row["resource"],
            None if row["condition"] is None else Condition(row["condition"]),
        )
        for row in rows
    ]


@dataclass
class Table:
    """The file, as it is now."""

    path: Path
    _bindings: list[Binding] = field(default_factory=list)
    _read_at: int = -1
    _noted: set[tuple[str, str, int]] = field(default_factory=set)

    def permits(self, identity: str, permission: str, resource: str, name: str | None = None) -> bool:
        """Whether somebody has a permission on a resource. `name`: as a condition sees it, where that is another."""
        self._read()
        for number, binding in enumerate(self._bindings):
            if binding.identity in (identity, "allUsers") and binding.gives(permission, resource, name or resource):
                self._note(binding, permission, number)
                return True
        return False

    def _read(self) -> None:
        changed = self.path.stat().st_mtime_ns
        if changed != self._read_at:
            self._bindings = bindings_of(json.loads(self.path.read_text("utf-8")))
            self._read_at = changed
            self._noted.clear()

    def _note(self, binding: Binding, permission: str, number: int) -> None:
        if (binding.identity, permission, number) in self._noted:
            return
        self._noted.add((binding.identity, permission, number))
        line = json.dumps([binding.identity, permission, binding.resource, _text(binding.condition)]) + "\n"
        descriptor = os.open(used_file(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())  # one write, so that processes do not mix their lines
        finally:
            os.close(descriptor)


def _text(condition: Condition | None) -> str | None:
    return None if condition is None else condition.expression


def used_file(path: Path) -> Path:
    """Where a table notes what was used: a list of identity, permission, resource and condition on each line."""
    return path.with_name(path.name + ".used")


def missing(table: Table, caller: str, service: Service, method: str, request: Any, names: Sequence[str]) -> str | None:
    """What Google says to a caller who may not do this; None for one who may."""
    for permission, resource in _needed(service, method, request, names):
        name = resource
        if service == "secret_manager":  # its names carry the project's number where conditions are looked at
            name = _PROJECT.sub(lambda found: f"projects/{project_number(found[1])}", resource, count=1)
        if not table.permits(caller, permission, resource, name):
            return _refusal(service, permission, name)
    return None


def _needed(service: Service, method: str, request: Any, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    if service == "firestore":
        database = "/".join(names[0].split("/")[:4]) if names else ""
        for permission in _of_writes(request) if method in ("Commit", "BatchWrite") else _known(service, method):
            yield permission, database
        return
    for name in names[:1] or ("",):
        # A secret that does not exist yet cannot be what the permission is for: it is the project.
        resource = "/".join(name.split("/")[:2]) if method == "CreateSecret" else name
        for permission in _known(service, method):
            yield permission, resource


def _known(service: Service, method: str) -> tuple[str, ...]:
    """A method that no function uses so far needs what nobody has."""
    return _NEEDS[service].get(method, (f"{service}.{method}",))


def _of_writes(request: Any) -> Iterator[str]:
    if not request.writes:
        yield "datastore.databases.get"
    for write in request.writes:
        precondition = write.current_document.WhichOneof("condition_type")
        if write.WhichOneof("operation") == "delete":
            yield "datastore.entities.delete"
            continue
        exists = precondition == "update_time" or write.current_document.exists
        if precondition is None or not exists:
            yield "datastore.entities.create"
        if precondition is None or exists:
            yield "datastore.entities.update"


def _refusal(service: Service, permission: str, name: str) -> str:
    if service == "firestore":
        return "Missing or insufficient permissions."
    if service == "pubsub":
        return "User not authorized to perform this action."
    return f"Permission '{permission}' denied for resource '{name}' (or it may not exist)."

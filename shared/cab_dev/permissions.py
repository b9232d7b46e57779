"""The permissions of the applied Terraform module, for the local stack: data/rights.json.

`python -m tests.terraform.rights` makes it, and a test compares it with the module.

Each row gives an identity permissions, or a role of Google's, on a resource and below it. Two permissions are of our own making, for the
network: who may `network.send` from inside, and to which service (`network.receive`) what comes from inside (identity `network`), from
the load balancer, or from anywhere is let through.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gcp_emulators.permissions.projects import project_number
from gcp_emulators.permissions.table import permissions_of

FILE = Path(__file__).parent / "data" / "rights.json"

# A deployment names its operators and gives them a place in the network (`operators`, docs/deploying.md). Here there is one.
_OPERATOR: tuple[dict[str, Any], ...] = (
    {"identity": "operator", "permissions": ["network.send"], "resource": "network", "condition": None},
    {
        "identity": "operator",
        "role": "roles/run.invoker",
        "resource": "projects/{project}/services/refresh-grants",
        "condition": None,
    },
)


def service_name(project: str, function: str) -> str:
    """The resource that a function is."""
    return f"projects/{project}/services/{function.replace('_', '-')}"


def rows_for(project: str) -> list[dict[str, Any]]:
    """The rows for one project, roles as permissions: what `gcp_emulators.permissions.table.Table` reads."""
    return list(_resolved((*json.loads(FILE.read_text("utf-8")), *_OPERATOR), project))


def _resolved(rows: Iterable[dict[str, Any]], project: str) -> Iterable[dict[str, Any]]:
    def named(text: str) -> str:
        return text.replace("{project}", project).replace("{number}", project_number(project))

    for row in rows:
        permissions = sorted(permissions_of(row["role"])) if "role" in row else row["permissions"]
        yield {
            "identity": row["identity"],
            "permissions": permissions,
            "resource": named(row["resource"]),
            "condition": None if row["condition"] is None else named(row["condition"]),
        }

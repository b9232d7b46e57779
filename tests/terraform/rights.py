"""Who may do what, read from the state of an applied module: one line for each identity, role and resource.

python -m tests.terraform.rights    # writes shared/cab_dev/data/rights.json, the permissions of the local stack
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.terraform.conftest import APPLIED, ROOT, prepared, run_tests

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
    return {it["values"]["member"]: _name(it) for it in found if it["type"] == "google_service_account"}


def _name(it: State) -> str:
    """By which an account is known here: its key, or its own name where there is one or none."""
    index = it.get("index", 0)
    return index if isinstance(index, str) else str(it["name"])


def _accounts(found: list[State]) -> dict[str, str]:
    """Generated names of accounts, as resources."""
    return {it["values"]["name"]: f"account {_name(it)}" for it in found if it["type"] == "google_service_account"}


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


# --- for the local stack ---

ROWS = ROOT / "shared" / "cab_dev" / "data" / "rights.json"
PROJECT, NUMBER = "test-cab", "123456789012"
_FROM_INSIDE = "network"
_INGRESS = {
    "ALLOW_INTERNAL_ONLY": (_FROM_INSIDE,),
    "ALLOW_INTERNAL_AND_GCLB": (_FROM_INSIDE, "load_balancer"),
    "ALLOW_ALL": ("allUsers",),
}


def rows(state: State) -> list[dict[str, Any]]:
    """The table of the local stack: its form is told in cab_dev/permissions.py."""
    found = list(resources(state["root_module"]))
    identities, roles, accounts = _identities(found), _own_roles(found), _accounts(found)
    emails = {it["values"]["email"]: _name(it) for it in _of_type(found, "service_account")}
    made = []
    for it in found:
        values = it["values"]
        if "_iam_" in it["type"] and not it["type"].endswith("_custom_role"):
            role = roles.get(values["role"])
            given = {"permissions": role.split(", ")} if role else {"role": values["role"]}
            condition = (values.get("condition") or [None])[0]
            expression = None if condition is None else _for_any_project(condition["expression"])
            for member in values.get("members") or [values["member"]]:
                identity = "pubsub" if "gcp-sa-pubsub" in member else identities.get(member, member)
                made.append(
                    {"identity": identity, **given, "resource": _full_name(it, accounts), "condition": expression}
                )
    for it in _of_type(found, "cloudfunctions2_function"):
        config = it["values"]["service_config"][0]
        made += [
            _route(source, "receive", f"projects/{{project}}/services/{it['values']['name']}")
            for source in _INGRESS[config["ingress_settings"]]
        ]
        if config["direct_vpc_network_interface"]:
            made.append(_route(str(it["values"]["build_config"][0]["entry_point"]), "send", "network"))
    # Pub/Sub's pushes and Scheduler's calls come from inside as they are.
    for it in _of_type(found, "pubsub_subscription"):
        for push in it["values"]["push_config"]:
            made.append(_route(emails[push["oidc_token"][0]["service_account_email"]], "send", "network"))
    for it in _of_type(found, "cloud_scheduler_job"):
        # Those with an access token start jobs, at Google's API; those with an ID token call functions.
        for token in it["values"]["http_target"][0]["oidc_token"]:
            made.append(_route(emails[token["service_account_email"]], "send", "network"))
    unique = {json.dumps(row, sort_keys=True): row for row in made}
    return [unique[text] for text in sorted(unique)]


def _of_type(found: list[State], kind: str) -> Iterator[State]:
    return (it for it in found if it["type"] == f"google_{kind}")


def _route(identity: str, direction: str, resource: str) -> dict[str, Any]:
    return {
        "identity": identity,
        "permissions": [f"network.{direction}"],
        "resource": resource,
        "condition": None,
    }


def _for_any_project(text: str) -> str:
    return text.replace(PROJECT, "{project}").replace(NUMBER, "{number}")


def _full_name(it: State, accounts: Mapping[str, str]) -> str:
    values, project = it["values"], "projects/{project}"
    kind = re.sub(r"^google_|_iam_(member|binding)$", "", it["type"])
    if kind == "secret_manager_secret":
        # Which of them there are is the configuration's; a reader of some reads all with the same prefix.
        return f"{project}/secrets/" + re.sub(
            r"^(cab-(?:provider|assertion|idp|client)-).*", r"\1*", values["secret_id"]
        )
    if kind == "service_account":
        return f"{project}/serviceAccounts/" + accounts[values["service_account_id"]].removeprefix("account ")
    if kind == "bigquery_table":
        return f"{project}/datasets/{values['dataset_id']}/tables/{values['table_id']}"
    names = {
        "project": project,
        "bigquery_dataset": f"{project}/datasets/{values.get('dataset_id')}",
        "cloud_run_v2_job": f"{project}/jobs/{values.get('name')}",
        "pubsub_topic": f"{project}/topics/{values.get('topic')}",
        "pubsub_subscription": f"{project}/subscriptions/{values.get('subscription')}",
        "cloud_run_v2_service": f"{project}/services/{values.get('name')}",
    }
    return names[kind]


def as_text(table: list[dict[str, Any]]) -> str:
    """One row a line."""
    return "[\n" + ",\n".join("  " + json.dumps(row) for row in table) + "\n]\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        state = run_tests(prepared(Path(made)), f"-filter=tests/{APPLIED}").state("rights")
    ROWS.write_text(as_text(rows(state)), "utf-8")

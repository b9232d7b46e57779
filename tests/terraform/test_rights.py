"""Who may do what after an apply, compared whole: a right that is missing, too many or wider than before is seen here.

The table below is docs/architecture.md in the words of Google Cloud. It is compared with the state of the applied module, so that a
loop or a default that gives more than somebody meant is seen too.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from tests.terraform.conftest import ROOT, ModuleRun
from tests.terraform.rights import ROWS, Right, State, as_text, resources, rights, rows

from cab_ops.doctor import expected

NUMBER = "123456789012"
PUBSUB_AGENT = f"serviceAccount:service-{NUMBER}@gcp-sa-pubsub.iam.gserviceaccount.com"
GRANT_SECRETS = (
    f'project test-cab if resource.name.startsWith("projects/{NUMBER}/secrets/cab-grant-") && '
    f'!resource.name.startsWith("projects/{NUMBER}/secrets/cab-grant-data-key")'
)
DATABASES = {
    "mint_assertion": {"guards": "user", "approvals": "viewer", "keys": "viewer", "unsent": "user"},
    "exchange_token": {"guards": "user", "grants": "viewer", "approvals": "viewer", "keys": "viewer", "unsent": "user"},
    "call_tool": {"keys": "viewer"},
    "publish_metadata": {"keys": "viewer"},
    "refresh_grants": {"grants": "user", "keys": "viewer", "unsent": "user"},
    "connect_account": {"guards": "viewer", "grants": "user", "approvals": "user", "unsent": "user"},
}
SECRETS = {
    "mint_assertion": {"cab-edge-signing"},
    "exchange_token": {"cab-sts-signing", "cab-client-ops-bot"},
    "refresh_grants": {"cab-escrow-key", "cab-grant-data-key", "cab-provider-crm", "cab-assertion-calendar"},
    "connect_account": {"cab-grant-data-key", "cab-provider-crm", "cab-idp-acme"},
}
AUDITED = ("mint_assertion", "exchange_token", "call_tool", "refresh_grants", "connect_account")
PUBLIC = ("mint-assertion", "exchange-token", "call-tool", "publish-metadata", "connect-account")
TABLE: set[Right] = {
    *(
        (
            function,
            f"roles/datastore.{right}",
            f'project test-cab if resource.name == "projects/test-cab/databases/{name}"',
        )
        for function, databases in DATABASES.items()
        for name, right in databases.items()
    ),
    *(
        (function, expected.READ_ROLE, f"secret_manager_secret {secret}")
        for function, secrets in SECRETS.items()
        for secret in secrets
    ),
    *((function, "roles/pubsub.publisher", "pubsub_topic cab-audit") for function in AUDITED),
    *(
        (function, "secretmanager.secrets.create", "project test-cab")
        for function in ("connect_account", "refresh_grants")
    ),
    ("connect_account", "secretmanager.secrets.getIamPolicy, secretmanager.versions.add", GRANT_SECRETS),
    (
        "refresh_grants",
        "secretmanager.versions.access, secretmanager.versions.add, secretmanager.versions.destroy",
        GRANT_SECRETS,
    ),
    ("refresh_grants", "roles/pubsub.publisher", "pubsub_topic cab-grants-due"),
    ("ingest_audit", "roles/pubsub.publisher", "pubsub_topic cab-audit-quarantine"),
    ("ingest_audit", "roles/bigquery.dataEditor", "bigquery_table events_raw"),
    (PUBSUB_AGENT, "roles/pubsub.publisher", "pubsub_topic cab-audit-dead-letter"),
    (PUBSUB_AGENT, "roles/pubsub.subscriber", "pubsub_subscription cab-audit-ingest"),
    (PUBSUB_AGENT, "roles/iam.serviceAccountTokenCreator", "service_account account pubsub_push"),
    *(("allUsers", "roles/run.invoker", f"cloud_run_v2_service {service}") for service in PUBLIC),
    *(
        (caller, "roles/run.invoker", "cloud_run_v2_service refresh-grants")
        for caller in ("exchange_token", "connect_account", "scheduler", "pubsub_push")
    ),
    ("pubsub_push", "roles/run.invoker", "cloud_run_v2_service ingest-audit"),
    (
        "doctor",
        "datastore.entities.get, datastore.indexes.list, pubsub.subscriptions.get, pubsub.topics.get, resourcemanager.projects.getIamPolicy, "
        "secretmanager.secrets.getIamPolicy, secretmanager.versions.get, serviceusage.services.list",
        "project test-cab",
    ),
    ("doctor", "datastore.entities.list", 'project test-cab if resource.name == "projects/test-cab/databases/unsent"'),
    ("doctor", "roles/bigquery.dataViewer", "bigquery_dataset cab_audit"),
    ("doctor", "roles/bigquery.jobUser", "project test-cab"),
    ("scheduler", "roles/run.invoker", "cloud_run_v2_job cab-doctor"),
    *(
        ("build", role, "project test-cab")
        for role in ("roles/logging.logWriter", "roles/storage.objectViewer", "roles/artifactregistry.writer")
    ),
}


@pytest.fixture(scope="module")
def state(tested: ModuleRun) -> State:
    """The state of the module, applied against the mock provider."""
    found: State = tested.state("rights")
    return found


def test_everybody_may_do_exactly_what_the_table_says(state: State) -> None:
    given = rights(state)
    assert sorted(TABLE - given) == [], "missing"
    assert sorted(given - TABLE) == [], "too many"


def test_call_tool_may_do_two_things_of_its_own_and_calls_exchange_token(state: State) -> None:
    given = {(role, resource) for identity, role, resource in rights(state) if identity == "call_tool"}
    assert given == {
        ("roles/datastore.viewer", 'project test-cab if resource.name == "projects/test-cab/databases/keys"'),
        ("roles/pubsub.publisher", "pubsub_topic cab-audit"),
    }


def test_the_doctor_and_the_local_stack_know_the_readers_of_secrets(state: State) -> None:
    read: dict[str, set[str]] = {}
    for identity, role, resource in rights(state):
        if role == expected.READ_ROLE:
            read.setdefault(resource.rpartition(" ")[2], set()).add(identity)
    assert {name: set(expected.readers_of(name) or ()) for name in read} == read
    assert set(expected.own_secrets()) <= set(read)


def test_the_local_stack_runs_under_the_permissions_of_the_module(state: State) -> None:
    made = as_text(rows(state))
    assert ROWS.read_text("utf-8") == made, "python -m tests.terraform.rights writes it"


def test_the_rows_of_the_local_stack_say_what_the_table_says(state: State) -> None:
    """No right is lost on the way, and what is no right of IAM's is about the network."""
    given = [row for row in rows(state) if not row.get("permissions", [""])[0].startswith("network.")]
    assert len(given) == len(TABLE)
    assert {row["identity"] for row in given} == {
        "pubsub" if identity == PUBSUB_AGENT else identity for identity, *_ in TABLE
    }
    opened = {(row["identity"], row["resource"].rpartition("/")[2]) for row in rows(state) if row not in given}
    assert opened == {
        *(
            (sender, "network")
            for sender in ("exchange_token", "connect_account", "call_tool", "scheduler", "pubsub_push")
        ),
        *(("network", service) for service in (*PUBLIC, "refresh-grants", "ingest-audit")),
        *(("load_balancer", service) for service in PUBLIC),
    }


def test_the_functions_open_no_other_databases(state: State) -> None:
    """Read from the code that builds each: what it opens by name, and what the shared parts that it uses open for it."""
    opened_by = {
        "single_use": "guards",
        "still_here": "approvals",
        "own_keys": "keys",
        "own=True": "keys",
        "authenticator(": "guards",
        "audit": "unsent",
    }
    for function, databases in DATABASES.items():
        text = (ROOT / "shared" / "cab" / "bootstrap" / f"{function}.py").read_text("utf-8")
        opened = set(re.findall(r'documents\("(\w+)"\)', text))
        opened |= {
            name for part, name in opened_by.items() if f"parts.{part}" in text or (part == "own=True" and part in text)
        }
        if "keeps_unsent=False" in text:
            opened.discard("unsent")
        assert opened == set(databases), function


def test_taking_any_one_permission_away_or_widening_it_is_noticed(state: State) -> None:
    """Each resource that gives something, by itself: removed, without its condition, with a wider role, for everybody."""
    changed = noticed = 0
    places = [
        number
        for number, it in enumerate(resources(state["root_module"]))
        if "_iam_" in it["type"] and not it["type"].endswith("_custom_role")
    ]
    for number in places:
        for change in (_without, _unconditioned, _wider, _for_everybody):
            mutant = copy.deepcopy({"root_module": state["root_module"]})
            target: Any = list(resources(mutant["root_module"]))[number]
            if not change(target):
                continue
            changed += 1
            noticed += rights(mutant) != TABLE
    assert len(places) >= 40
    assert changed == noticed >= 120


def _without(it: dict[str, Any]) -> bool:
    it["type"] = "taken away"
    return True


def _unconditioned(it: dict[str, Any]) -> bool:
    had = bool(it["values"].get("condition"))
    it["values"]["condition"] = []
    return had


def _wider(it: dict[str, Any]) -> bool:
    it["values"]["role"] = "roles/editor"
    return True


def _for_everybody(it: dict[str, Any]) -> bool:
    if "members" in it["values"]:
        it["values"]["members"] = [*it["values"]["members"], "allAuthenticatedUsers"]
        return True
    it["values"]["member"] = "allAuthenticatedUsers"
    return True

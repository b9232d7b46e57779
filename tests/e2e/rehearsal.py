"""The journeys of the local stack under Terraform's permissions: what each needs, and what nobody needs.

    python -m tests.e2e.rehearsal [--only TEXT]    # takes every permission and route away, one at a time: is it noticed?

A permission is needed when a journey fails without it, or the alert permission-denied of terraform/alerts.tf would fire: some calls are in
nobody's way. The journeys are those that every deployment knows: connect, act through an agent, be asked, let the broker call, look at
the record, disconnect, sweep.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import requests
from examples.acme.person import Person
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcTransport
from google.cloud.firestore_v1.types import Write
from tests.e2e.caller import Caller
from tests.running_stack import ROOT, Stack, running_stack

from cab_dev.permissions import rows_for
from cab_dev.stack import FUNCTIONS, RIGHTS_NAME
from cab_dev.stack_file import DOCTOR_ENVIRONMENT_NAME, read_environment
from gcp_emulators.permissions.table import permissions_of, predefined, used_file

Journey = Callable[[Stack], None]
Use = tuple[str, str, str, str | None]  # identity, permission, resource, condition
ALICE = ("crm.opportunity.read", "opportunity/0061")
BOT = "ops-bot"


# --- the journeys ---


def act(stack: Stack) -> None:
    """Mint, exchange, from memory or by a refresh; the other agent by its secret."""
    caller = Caller(stack)
    answer = caller.exchange(caller.assertion("alice"), *ALICE)
    assert answer.status == 200, answer.body
    bot = Caller(stack, BOT)
    form = bot.exchange_form(bot.assertion("alice"), *ALICE)
    for name in ("client_assertion", "client_assertion_type"):
        del form[name]
    secret = (stack.state_dir / "secrets" / "cab-client-ops-bot").read_text("utf-8")
    by_secret = requests.post(stack.file.origin + "/oauth2/token", data=form, auth=(BOT, secret), timeout=20)
    assert by_secret.status_code == 200, by_secret.text


def connect_and_disconnect(stack: Stack) -> None:
    """Carol, whose agent has a token only for as long as this takes."""
    forget_ended_grants(stack)  # a person who comes back is another journey: no grant is made then
    carol, bot = Person("carol"), Caller(stack, BOT)
    wanted = ("crm.opportunity.list", "opportunity/*")
    try:
        carol.log_in(f"{stack.file.origin}/login?idp=0&to=/me")
        page = carol.connect(f"{stack.file.origin}/connect?connection=crm")
        assert page.status == 200, page.address
        answer = bot.exchange(bot.assertion("carol"), *wanted)
        assert answer.status == 200, answer.body
        page = carol.open(f"{stack.file.origin}/me")
        form, button = next((form, it) for form in page.forms for it in form.buttons if "Disconnect" in it.label)
        page = carol.submit(page, form, button)
        assert page.status == 200, (page.status, page.address)
        answer = bot.exchange(bot.assertion("carol"), *wanted)
        assert answer.reason == "grant_revoked", answer.body
    finally:
        carol.close()


def forget_ended_grants(stack: Stack) -> None:
    """As the owner of the project."""
    with grpc.insecure_channel(stack.file.emulators.firestore) as channel:
        client = FirestoreClient(transport=FirestoreGrpcTransport(channel=channel))
        database = f"projects/{stack.file.project_id}/databases/grants"
        for document in client.list_documents(request={"parent": f"{database}/documents", "collection_id": "grants"}):
            if document.fields["status"].string_value in ("revoking", "revoked"):
                client.commit(database=database, writes=[Write(delete=document.name)])


def look_up_metadata(stack: Stack) -> None:
    for path in ("/oauth2/jwks.json", "/.well-known/oauth-authorization-server/oauth2", "/health"):
        answer = requests.get(stack.file.origin + path, timeout=10)
        assert answer.status_code == 200, (path, answer.status_code)


def sweep(stack: Stack) -> None:
    """As Cloud Scheduler does it."""
    url, identity = stack.file.services["refresh_grants"].called_at, stack.file.services["google_identity"].url
    email = f"scheduler@{stack.file.project_id}.iam.gserviceaccount.com"
    token = requests.get(f"{identity}/token", params={"email": email, "audience": str(url)}, timeout=5).text
    answer = requests.post(f"{url}/grants/sweep", json={}, headers={"Authorization": f"Bearer {token}"}, timeout=20)
    assert answer.status_code == 200, answer.status_code


def the_demo(stack: Stack) -> None:
    """The stories of `make demo`: a person is asked, the broker calls, and the record is compared with what was answered."""
    played = subprocess.run(
        [sys.executable, "-m", "examples.acme.demo", "--state-dir", str(stack.state_dir)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert played.returncode == 0, played.stdout[-800:] + played.stderr[-300:]


def examine(stack: Stack) -> None:
    """As the scheduled doctor, who must be able to look at everything but what waits in the keeping subscriptions."""
    environment = os.environ | read_environment(stack.state_dir, name=DOCTOR_ENVIRONMENT_NAME)
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "shared"), str(ROOT)))
    parts = [f"--only={part}" for part in ("project", "secrets", "keys", "topics")]
    done = subprocess.run(
        [sys.executable, "-m", "cab_ops.cli", "doctor", "--all", "--json", *parts],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    findings = json.loads(done.stdout)["findings"]
    hidden = [it for it in findings if it["result"] == "unknown" and not it["check"].endswith("-keep")]
    hidden += [it for it in findings if it["result"] == "ill" and "cannot be" in it["says"]]
    assert not hidden, hidden


QUICK: tuple[Journey, ...] = (look_up_metadata, act, sweep, connect_and_disconnect, examine)
JOURNEYS = (*QUICK, the_demo)


def first_trouble(stack: Stack, journeys: tuple[Journey, ...] = JOURNEYS) -> str | None:
    """The first journey that fails, and how, or a line that alerts; None when all go well."""
    read_before = {log: log.stat().st_size for log in _logs_of_functions(stack)}
    for journey in journeys:
        try:
            journey(stack)
        except Exception as exc:  # noqa: BLE001 - whatever goes wrong on the way is what is asked for
            # The line is the better witness: a journey can fail because the machine is slow.
            return next(alerting_lines(read_before), f"{journey.__name__}: {type(exc).__name__} {str(exc)[:160]}")
    return next(alerting_lines(read_before), None)


def _logs_of_functions(stack: Stack) -> Iterator[Path]:
    for function in FUNCTIONS:
        yield Path(stack.file.services[function].log)


def alerting_lines(read_before: dict[Path, int]) -> Iterator[str]:
    """What the alert permission-denied finds in logs after so many bytes of each."""
    alerts = (ROOT / "terraform" / "alerts.tf").read_text("utf-8")
    (pattern,) = re.findall(r'permission-denied = \{\n.*\n.*jsonPayload\.message =~ \\"([^"\\]+)\\"', alerts)
    for log, size in read_before.items():
        with log.open("rb") as opened:
            opened.seek(size)
            for line in opened.read().decode("utf-8").splitlines():
                if found := re.search(f'"message":"([^"]*{pattern}[^"]*)"', line):
                    yield f"alert permission-denied: {log.stem}: {found[1]}"


# --- what is used, and what is given ---


def used(stack: Stack) -> set[Use]:
    """What was used since the stack started."""
    lines = used_file(stack.state_dir / RIGHTS_NAME).read_text("utf-8").splitlines()
    return {(it[0], it[1], it[2], it[3]) for it in map(json.loads, lines)}


def too_much(rows: list[dict[str, Any]], used: set[Use]) -> Iterator[tuple[str, str, str]]:
    """Identity, permission or `a role`, and resource of what is given and not used, or wider than what is.

    Of a predefined role something must be used; of `datastore.user`, something that `datastore.viewer` has not.
    """
    for row in rows:
        mine = {
            permission
            for identity, permission, resource, condition in used
            if (identity, resource, condition) == (row["identity"], row["resource"], row["condition"])
        }
        given = frozenset(row["permissions"])
        where = row["condition"] or row["resource"]
        if given == permissions_of("roles/datastore.user"):
            if mine <= permissions_of("roles/datastore.viewer"):
                yield row["identity"], "roles/datastore.user", where
        elif len(given) > 1 and given in predefined():
            if not mine:
                yield row["identity"], "a role", where
        else:
            for permission in sorted(given - mine):
                yield row["identity"], permission, where


# Given, and not used by the journeys: each with the reason why it stays.
_DATA_KEY = "grants sealed in Firestore (CAB_GRANT_STORAGE=envelope); here each has a secret of its own"
_CLEAN_UP = "the clean-up of replaced versions waits for an hour: tests/grants holds it"
_PUBSUB = "Pub/Sub's own agent: our emulator moves dead letters and signs pushes itself"
_SAME_INGRESS = (
    "what the load balancer reaches is open to the network as well: Cloud Run has no ingress for the balancer alone"
)
_UNSENT = "writes only while Pub/Sub refuses events: tests/e2e/test_failure_times.py and tests/use_cases hold it"
_BUILDS = "nothing is built here"
_CLOUD = "what only the cloud knows (cab_ops/doctor/project.py, CloudFacts): tests/cli/test_doctor.py"
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("mint_assertion", "a role", 'resource.name == "projects/demo-cab/databases/approvals"'): (
        "reads what identity providers say of people, where a folder configures that"
    ),
    **{
        (function, "roles/datastore.user", 'resource.name == "projects/demo-cab/databases/unsent"'): _UNSENT
        for function in ("connect_account", "exchange_token", "mint_assertion", "refresh_grants")
    },
    ("connect_account", "secretmanager.secrets.getIamPolicy", "cab-grant-"): (
        "TestIamPermissions is asked on a secret; that it needs nothing is not written in Google's reference"
    ),
    ("refresh_grants", "secretmanager.secrets.create", "projects/demo-cab"): (
        "`cab grants move` to a secret for each grant: tests/dev/emulators/test_permissions.py"
    ),
    ("refresh_grants", "secretmanager.versions.destroy", "cab-grant-"): _CLEAN_UP,
    **{
        ("build", *given): _BUILDS
        for given in (("a role", "projects/demo-cab"), ("logging.logEntries.create", "projects/demo-cab"))
    },
    ("connect_account", "secretmanager.versions.access", "projects/demo-cab/secrets/cab-grant-data-key"): _DATA_KEY,
    ("refresh_grants", "secretmanager.versions.access", "projects/demo-cab/secrets/cab-grant-data-key"): _DATA_KEY,
    ("ingest_audit", "pubsub.topics.publish", "projects/demo-cab/topics/cab-audit-quarantine"): (
        "what is no event: tests/e2e/test_audit_pipeline.py"
    ),
    **{
        ("network", "network.receive", f"projects/demo-cab/services/{service}"): _SAME_INGRESS
        for service in ("call-tool", "connect-account", "mint-assertion", "publish-metadata")
    },
    ("pubsub", "a role", "projects/demo-cab/serviceAccounts/pubsub_push"): _PUBSUB,
    ("pubsub", "a role", "projects/demo-cab/subscriptions/cab-audit-ingest"): _PUBSUB,
    ("pubsub", "pubsub.topics.publish", "projects/demo-cab/topics/cab-audit-dead-letter"): _PUBSUB,
    ("pubsub_push", "a role", "projects/demo-cab/services/refresh-grants"): (
        "visits a grant that wants attention, which those of the demo do not: tests/contracts and tests/grants"
    ),
    ("refresh_grants", "pubsub.topics.publish", "projects/demo-cab/topics/cab-grants-due"): "the same",
    ("refresh_grants", "secretmanager.versions.access", "projects/demo-cab/secrets/cab-assertion-*"): (
        "keys of jwt_bearer: tests/e2e/test_trusted_connections.py"
    ),
    **{
        ("doctor", permission, "projects/demo-cab"): _CLOUD
        for permission in (
            "datastore.indexes.list",
            "resourcemanager.projects.getIamPolicy",
            "serviceusage.services.list",
        )
    },
    **{
        ("doctor", "a role", where): "BigQuery asks nobody but ingest_audit here"
        for where in ("projects/demo-cab", "projects/demo-cab/datasets/cab_audit")
    },
    ("scheduler", "a role", "projects/demo-cab/jobs/cab-doctor"): "nothing starts jobs here",
    ("operator", "network.send", "network"): "`cab grants revoke` and `cab doctor`: tests/cli/test_doctor.py",
    ("operator", "a role", "projects/demo-cab/services/refresh-grants"): "the same",
}


def unexplained(stack: Stack) -> list[tuple[str, str, str]]:
    """What is given and neither used so far nor explained."""
    found = too_much(rows_for(stack.file.project_id), used(stack))
    return [it for it in found if not _explained(it)]


def _explained(given: tuple[str, str, str]) -> bool:
    identity, permission, where = given
    named = "cab-grant-" if "secrets/cab-grant-" in where and "startsWith" in where else where
    return (identity, permission, named) in EXCEPTIONS


# --- taking away ---


@contextmanager
def without(stack: Stack, use: Use) -> Iterator[None]:
    """The stack without one permission, its holder started anew so that it remembers nothing."""
    identity, permission, resource, condition = use
    rows = rows_for(stack.file.project_id)
    (row,) = [
        it
        for it in rows
        if (it["identity"], it["resource"], it["condition"]) == (identity, resource, condition)
        and permission in it["permissions"]
    ]
    row["permissions"] = [it for it in row["permissions"] if it != permission]
    _give(stack, rows)
    try:
        if identity in stack.file.services:
            stack.restart(identity)
        yield
    finally:
        _give(stack, rows_for(stack.file.project_id))


def _give(stack: Stack, rows: list[dict[str, Any]]) -> None:
    part = stack.state_dir / "rights.part"
    part.write_text(json.dumps(rows), "utf-8")
    part.replace(stack.state_dir / RIGHTS_NAME)


def until_well(stack: Stack) -> None:
    """Wait until what was refused is no longer. Raises: SystemExit."""
    deadline = time.monotonic() + 60
    while (trouble := first_trouble(stack, QUICK)) is not None:
        if time.monotonic() > deadline:
            raise SystemExit(f"The stack does not recover: {trouble}")
        time.sleep(0.5)


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.rehearsal", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="uses with this text in them")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder), "--emulators", "embedded") as stack:
        trouble = first_trouble(stack)
        if trouble:
            raise SystemExit(f"With every permission: {trouble}")
        found = sorted(used(stack), key=str)
        survived = []
        tried = [use for use in found if only in str(use)]
        for use in tried:
            with without(stack, use):
                trouble = first_trouble(stack)
            _say("noticed " if trouble else "SURVIVED", *use, "|", trouble or "")
            if trouble is None:
                survived.append(use)
            until_well(stack)
        for line in unexplained(stack):
            _say("not used", *line)
        _say(f"{len(tried)} permissions and routes taken away, {len(tried) - len(survived)} noticed")
        return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

"""The local stack as newcomers and other programs meet it: what docs/api.md promises of `cab dev`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import jwt
import psutil
import pytest
import requests
from tests.running_stack import ROOT, Stack, deployed_python

from cab_dev.stack import FUNCTIONS
from gcp_emulators.testing import official_is_required

pytestmark = pytest.mark.stack


def cab(stack: Stack, *arguments: str, standard_input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cab_ops.cli", "dev", *arguments, "--state-dir", str(stack.state_dir)],
        input=standard_input,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'shared'}{os.pathsep}{ROOT}"},
    )


def test_the_stack_file_has_the_members_that_the_contract_names(stack: Stack) -> None:
    content = json.loads((stack.state_dir / "stack.json").read_text())
    assert set(content) == {
        *("origin", "issuer", "edge_issuer", "project_id", "idp", "front_end", "front_ends", "agents", "connections"),
        *("emulators", "audit", "services"),
    }
    assert content["issuer"] == content["origin"] + "/oauth2"
    assert content["edge_issuer"] == content["origin"] + "/edge"
    assert set(content["idp"]) == {"issuer", "client_id"}
    assert set(content["agents"]) == {"sales-assistant", "ops-bot", "warehouse"}
    assert set(content["connections"]["crm"]) == {"resource", "audience", "api_base"}
    assert set(content["emulators"]) == {"firestore", "pubsub", "secret_manager", "bigquery"}
    assert set(content["audit"]) == {"dataset", "events_view"}
    assert all(set(entry) == {"url", "pid", "log", "called_at"} for entry in content["services"].values())
    for client in (content["front_end"], *content["agents"].values()):
        key = json.loads(Path(client["private_key_file"]).read_text())
        assert (key["kty"], key["crv"], key["alg"]) == ("EC", "P-256", "ES256")


def test_each_function_runs_on_the_python_that_is_deployed_with_what_is_deployed_there(stack: Stack) -> None:
    python = deployed_python()
    if not python and not official_is_required(os.environ):
        pytest.skip("there is no such Python here, or `make test` has not laid it yet")
    pids = [entry.pid for name, entry in stack.file.services.items() if name in FUNCTIONS]
    assert [psutil.Process(pid).cmdline()[0] for pid in pids] == [*python[1:]] * len(FUNCTIONS)


def test_every_service_runs_and_answers(stack: Stack) -> None:
    for name, entry in stack.file.services.items():
        assert entry.pid is not None, name
        assert psutil.pid_exists(entry.pid), name
        if entry.url and name.endswith(("_token", "_assertion", "_metadata", "_grants", "_account", "_audit")):
            assert requests.get(f"{entry.url}/health", timeout=5).status_code == 200, name


def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    supervisor = psutil.Process(stack.process.pid)
    for process in (supervisor, *supervisor.children(recursive=True)):
        listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, process.cmdline()[:4]


def test_keys_secrets_and_tokens_are_readable_by_their_owner_only(stack: Stack) -> None:
    for folder in ("keys", "secrets", "organisation", "data", "logs"):
        assert stat.S_IMODE((stack.state_dir / folder).stat().st_mode) == 0o700
    files = [*(stack.state_dir / "keys").iterdir(), *(stack.state_dir / "secrets").iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_metadata_is_served_under_the_origin(stack: Stack) -> None:
    answer = requests.get(f"{stack.file.origin}/.well-known/oauth-authorization-server/oauth2", timeout=5)
    assert answer.status_code == 200
    assert answer.json()["issuer"] == stack.file.issuer


def test_an_id_token_is_printed_and_nothing_else(stack: Stack) -> None:
    done = cab(stack, "id-token", "--user", "alice")
    assert done.returncode == 0, done.stderr
    claims = jwt.decode(done.stdout.strip(), options={"verify_signature": False})
    assert claims["iss"] == stack.file.idp.issuer
    assert claims["aud"] == stack.file.idp.client_id


def test_an_assertion_with_a_task_is_printed_and_nothing_else(stack: Stack) -> None:
    task = {"type": "cab_task", "task_id": "t-1", "actions": ["crm.*"], "identifiers": ["opportunity/*"]}
    done = cab(
        stack,
        "assertion",
        "--user",
        "bob",
        "--agent",
        "sales-assistant",
        "--task",
        "-",
        standard_input=json.dumps(task),
    )
    assert done.returncode == 0, done.stderr
    claims = jwt.decode(done.stdout.strip(), options={"verify_signature": False})
    assert claims["iss"] == stack.file.edge_issuer
    assert claims["may_act"] == {"sub": "sales-assistant"}
    assert claims["authorization_details"][0]["task_id"] == "t-1"


def test_an_unknown_person_is_named_in_one_sentence(stack: Stack) -> None:
    done = cab(stack, "id-token", "--user", "mallory")
    assert done.returncode == 1
    assert done.stderr == "Error: There is nobody called mallory. Choose from: alice, bob, carol.\n"


@pytest.mark.parametrize("command", [["id-token"], ["assertion", "--agent", "sales-assistant"]])
def test_an_unknown_front_end_is_named_in_one_sentence(stack: Stack, command: list[str]) -> None:
    done = cab(stack, *command, "--user", "alice", "--front-end", "acme-wbe")
    assert done.returncode == 1
    assert done.stderr == "Error: There is no front end acme-wbe. Choose from: acme-web.\n"


def test_a_service_can_be_killed_and_brought_back(stack: Stack) -> None:
    before = stack.file.services["tracker"].pid
    assert cab(stack, "stop-service", "tracker", "--kill").returncode == 0
    try:
        assert stack.file.services["tracker"].pid is None
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{stack.file.services['tracker'].url}/health", timeout=5)
    finally:
        assert cab(stack, "restart", "tracker").returncode == 0
    assert stack.file.services["tracker"].pid not in (None, before)
    assert requests.get(f"{stack.file.services['tracker'].url}/health", timeout=5).status_code == 200


def test_a_function_that_is_down_gives_a_standard_error_within_five_seconds(stack: Stack) -> None:
    stack.kill("mint_assertion")
    try:
        begun = time.monotonic()
        answer = requests.post(f"{stack.file.origin}/edge/token", data={"grant_type": "x"}, timeout=10)
        assert time.monotonic() - begun < 5
        assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    finally:
        stack.restart("mint_assertion")


def test_a_second_stack_in_the_same_state_folder_is_refused_with_the_remedy(stack: Stack) -> None:
    done = cab(stack, "up", "--port", "0")
    assert done.returncode == 1
    assert "A stack already runs with the state folder" in done.stdout
    assert stack.file.origin

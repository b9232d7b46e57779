"""The services as processes of their own: ready soon, quiet logs, clean end, tokens that survive a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from examples.acme.person import Person

from cab_dev.doubles.oauth_provider import s256
from cab_dev.processes.ports import PortLeases

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 20


@contextmanager
def running(service: str, port: int, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a process, ready for requests; killed at the end if it still runs."""
    command = [sys.executable, "-m", f"examples.acme.services.{service}", "--port", str(port), *arguments]
    environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}shared", "DOUBLE_TEST_SECRET": "s3cret"}
    with log.open("ab") as output, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=output) as process:
        try:
            _wait_until_ready(process, port)
            yield process
        finally:
            process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service ended before it was ready"
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).json() == {"status": "ok"}:
                return
        except requests.ConnectionError:
            time.sleep(0.02)
    pytest.fail("the service was not ready in time")


@pytest.fixture
def port() -> Iterator[int]:
    with PortLeases() as leases:
        yield leases.take_free()


@pytest.mark.parametrize("service", ["idp", "crm", "tracker", "warehouse", "notes"])
def test_a_service_starts_and_ends_cleanly_on_sigterm(service: str, port: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(service, port, log=log) as process:
        requests.get(f"http://127.0.0.1:{port}/nothing?code=SECRET-IN-QUERY", timeout=5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)
    text = log.read_text()
    assert "GET /nothing 404" in text
    assert "SECRET-IN-QUERY" not in text
    assert "Traceback" not in text


def test_a_person_logs_in_over_real_sockets_and_the_log_holds_no_code(port: int, tmp_path: Path) -> None:
    clients = tmp_path / "clients.json"
    entry = {"client_id": "acme-web", "redirect_uris": ["http://127.0.0.1:*/cb"]}
    clients.write_text(json.dumps({"clients": [entry]}))
    with running("idp", port, "--clients", str(clients), log=tmp_path / "log") as process:
        alice = Person("alice")
        token = alice.id_token(idp_issuer=f"http://127.0.0.1:{port}", client_id="acme-web")
        alice.close()
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    assert token.count(".") == 2
    text = (tmp_path / "log").read_text()
    assert "POST /token 200" in text
    assert "code" not in text
    assert token not in text


def test_a_reset_closes_the_connection_in_the_middle_of_the_body(port: int, tmp_path: Path) -> None:
    with running("crm", port, log=tmp_path / "log"):
        origin = f"http://127.0.0.1:{port}"
        requests.post(f"{origin}/_control/faults", json={"kind": "reset", "count": 1}, timeout=5)
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
            requests.post(f"{origin}/oauth/token", data={"grant_type": "refresh_token"}, timeout=5)
        assert requests.get(f"{origin}/health", timeout=5).status_code == 200


def test_a_client_that_gives_up_on_a_slow_refresh_has_lost_the_answer(port: int, tmp_path: Path) -> None:
    clients = tmp_path / "clients.json"
    entry = {"client_id": "cab", "client_secret_env": "DOUBLE_TEST_SECRET", "redirect_uris": ["http://127.0.0.1:9/cb"]}
    clients.write_text(json.dumps({"clients": [entry]}))
    with running("crm", port, "--clients", str(clients), log=tmp_path / "log"):
        origin = f"http://127.0.0.1:{port}"
        tokens = _connect(origin)
        fault = {"kind": "slow", "seconds": 60, "count": 1}
        requests.post(f"{origin}/_control/faults", json=fault, timeout=5)
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}

        with pytest.raises(requests.Timeout):
            requests.post(f"{origin}/oauth/token", data=form, auth=("cab", "s3cret"), timeout=0.3)

        events = _events_until(origin, "answer_lost")
    assert events.count("refreshed") == 1


def _connect(origin: str) -> dict[str, str]:
    """The first token answer of a grant of alice, through the pages."""
    verifier = "v" * 43
    query = {
        "response_type": "code",
        "client_id": "cab",
        "redirect_uri": "http://127.0.0.1:9/cb",
        "scope": "opportunity.read offline_access",
        "code_challenge": s256(verifier),
        "code_challenge_method": "S256",
    }
    with requests.Session() as browser:
        page = browser.get(f"{origin}/oauth/authorize", params=query, timeout=5).text
        form = {"request": page.partition('name="request" value="')[2].partition('"')[0], "account": "alice"}
        back = browser.post(f"{origin}/oauth/consent", data=form, timeout=5, allow_redirects=False)
    code = back.headers["location"].partition("code=")[2].partition("&")[0]
    redeem = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": "http://127.0.0.1:9/cb",
        "code_verifier": verifier,
    }
    answer = requests.post(f"{origin}/oauth/token", data=redeem, auth=("cab", "s3cret"), timeout=5)
    return dict(answer.json())


def _events_until(origin: str, event: str) -> list[str]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        entries = requests.get(f"{origin}/_control/ledger", timeout=5).json()["entries"]
        events = [entry["event"] for entry in entries]
        if event in events:
            return events
        time.sleep(0.02)
    pytest.fail(f"no {event} in the ledger")


def test_a_hanging_service_still_ends_on_sigterm(port: int, tmp_path: Path) -> None:
    with running("crm", port, log=tmp_path / "log") as process:
        origin = f"http://127.0.0.1:{port}"
        requests.post(f"{origin}/_control/faults", json={"kind": "hang"}, timeout=5)
        with pytest.raises(requests.Timeout):
            requests.post(f"{origin}/oauth/token", data={"grant_type": "refresh_token"}, timeout=0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, -signal.SIGTERM)


def test_a_killed_service_still_knows_its_ledger(port: int, tmp_path: Path) -> None:
    arguments = ("--state", str(tmp_path / "crm.sqlite"))
    origin = f"http://127.0.0.1:{port}"
    with running("crm", port, *arguments, log=tmp_path / "log") as process:
        requests.get(f"{origin}/opportunities", headers={"Authorization": "Bearer unknown"}, timeout=5)
        before = requests.get(f"{origin}/_control/ledger", timeout=5).json()["entries"]
        process.kill()
        process.wait(10)
    with running("crm", port, *arguments, log=tmp_path / "log"):
        assert requests.get(f"{origin}/_control/ledger", timeout=5).json()["entries"] == before
    assert [entry["event"] for entry in before] == ["refused"]


def test_a_wrong_origin_is_told_at_the_start() -> None:
    command = [sys.executable, "-m", "examples.acme.services.crm", "--origin", "http://127.0.0.1:1/"]
    environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}shared"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert b"without a path or trailing slash" in ended.stderr

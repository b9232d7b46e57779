"""What a function does when it is told to stop, as the process that is deployed: functions-framework, gunicorn, uvicorn worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from tests.contracts.subscription import Subscription
from tests.support.collector import collecting
from tests.support.functions import ROOT
from tests.support.world import World

from cab_dev.processes.ports import PortLeases
from gcp_emulators import Emulators
from gcp_emulators.faults import CallFault
from gcp_emulators.testing import running_for_tests

TOPIC = "cab-audit"
READY_WITHIN_S = 60.0
GONE_WITHIN_S = 9.0  # Cloud Run kills ten seconds after SIGTERM


@pytest.fixture(scope="module")
def emulators() -> Iterator[Emulators]:
    with running_for_tests("embedded") as running:
        yield running


class Deployed:
    """A function run as `terraform/` and the local stack run it, and what it published."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, subscription: Subscription) -> None:
        self.process = process
        self.url = url
        self.subscription = subscription

    def refuse(self, caller: str) -> requests.Response:
        """A stranger's request: it leaves an event, or is counted."""
        headers = {"X-Forwarded-For": f"{caller}, 203.0.113.200"}
        with requests.Session() as own:
            return own.post(f"{self.url}/edge/token", data={"grant_type": "x"}, headers=headers, timeout=20)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)  # as a terminal does
        else:
            self.process.send_signal(number)  # the platform tells the first process, which tells its workers
        self.process.wait(GONE_WITHIN_S)

    def chains(self) -> list[list[dict[str, Any]]]:
        """Every event that was published since the last time, by chain, in its order."""
        found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for data in self.subscription.events_until_now():
            event = json.loads(data)
            found[event["chain"]["id"]][event["chain"]["seq"]] = event
        return [[events[seq] for seq in sorted(events)] for events in found.values()]


@contextmanager
def deployed(
    emulators: Emulators, scratch: Path, project: str, *, function: str = "mint_assertion", **variables: str
) -> Iterator[Deployed]:
    subscription = Subscription(emulators.address("pubsub"), project, TOPIC)
    try:
        with running(emulators, scratch, project, subscription, function, variables) as process:
            yield process
    finally:
        subscription.close()


@contextmanager
def running(
    emulators: Emulators,
    scratch: Path,
    project: str,
    subscription: Subscription,
    function: str,
    variables: dict[str, str],
) -> Iterator[Deployed]:
    with PortLeases() as leases, (scratch / "log").open("wb") as log:
        port = leases.take_free()
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "shared"),
            **World(scratch=scratch).environment,
            **emulators.environment(),
            "GOOGLE_CLOUD_PROJECT": project,
            "FUNCTION_TARGET": function,
            "PORT": str(port),
            "FUNCTION_SOURCE": f"functions/{function}/main.py",
            **variables,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "functions_framework"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_until_it_listens(process, port)
            yield Deployed(process, f"http://127.0.0.1:{port}", subscription)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass
        assert process.poll() is None, "the function did not start"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_stop_closes_its_chain(
    emulators: Emulators, tmp_path: Path, project: str, number: int
) -> None:
    with deployed(emulators, tmp_path, project) as function:
        assert function.refuse("198.51.100.7").status_code in (400, 401)
        function.stop(number)
        ((first, last),) = function.chains()
    assert (first["outcome"], last["event_type"], last["count"]) == ("refused", "chain.closed", 2)


def test_what_was_only_counted_is_published_at_the_end(emulators: Emulators, tmp_path: Path, project: str) -> None:
    with deployed(emulators, tmp_path, project) as function:
        for _ in range(12):
            function.refuse("198.51.100.7")
        for _ in range(7):
            function.refuse("192.0.2.7")
        function.stop()
        (events,) = function.chains()
    counted = {event["caller_ip_prefix"]: event["count"] for event in events if "counted" in event["event_type"]}
    assert counted == {"198.51.100.0/24": 7, "192.0.2.0/24": 2}
    assert events[-1]["event_type"] == "chain.closed"


def test_what_could_not_be_published_before_goes_out_at_the_end(
    emulators: Emulators, tmp_path: Path, project: str
) -> None:
    with deployed(emulators, tmp_path, project) as function:
        control = emulators.control("pubsub")
        control.add_fault(CallFault(service="pubsub", method="Publish", status="UNAVAILABLE", resource=project))
        try:
            assert function.refuse("198.51.100.7").status_code in (400, 401)
        finally:
            control.clear_faults()
        function.stop()
        ((first, last),) = function.chains()
    assert (first["outcome"], last["event_type"]) == ("refused", "chain.closed")


def test_what_a_killed_process_could_not_publish_is_sent_by_its_successor(
    emulators: Emulators, tmp_path: Path, project: str
) -> None:
    (tmp_path / "after").mkdir()
    with deployed(emulators, tmp_path, project) as function:
        control = emulators.control("pubsub")
        control.add_fault(CallFault(service="pubsub", method="Publish", status="UNAVAILABLE", resource=project))
        try:
            assert function.refuse("198.51.100.7").status_code in (400, 401)
            os.killpg(function.process.pid, signal.SIGKILL)
        finally:
            control.clear_faults()
        with running(emulators, tmp_path / "after", project, function.subscription, "mint_assertion", {}) as successor:
            assert successor.refuse("192.0.2.7").status_code in (400, 401)
            chains = function.chains()
            while len(chains) < 2:
                time.sleep(0.1)
                chains += function.chains()
    networks = {events[0]["caller_ip_prefix"]: [event["chain"]["seq"] for event in events] for events in chains}
    assert networks == {"198.51.100.0/24": [1], "192.0.2.0/24": [1]}


def test_with_traces_what_was_not_sent_yet_leaves_at_the_end_in_the_callers_trace_and_holds_no_token(
    emulators: Emulators, tmp_path: Path, project: str
) -> None:
    canary = "c4n4ry-of-a-token"
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with (
        collecting() as collector,
        deployed(emulators, tmp_path, project, CAB_TRACE_RATIO="1", CAB_TRACE_ENDPOINT=collector.url) as function,
    ):
        headers = {"traceparent": f"00-{trace}-{span}-00", "Authorization": f"Bearer {canary}", "DPoP": canary}
        form = {"grant_type": canary, "subject_token": canary, "client_assertion": canary}
        answer = requests.post(f"{function.url}/edge/token?a={canary}", data=form, headers=headers, timeout=20)
        assert answer.status_code in (400, 401)
        function.stop()
        ((first, _),) = function.chains()
        of_trace = {it.name: it for it in collector.spans if it.trace_id == trace}
    assert of_trace["mint_assertion"].parent_id == span
    assert of_trace["mint_assertion"].facts["cab.txn"] == answer.headers["cab-txn"]
    assert of_trace["audit publish"].parent_id == of_trace["mint_assertion"].span_id
    assert first["trace_id"] == trace
    assert canary.encode() not in b"".join(collector.bodies)
    assert canary not in (tmp_path / "log").read_text("utf-8")


def test_a_request_in_flight_is_answered_and_recorded_before_the_end(
    emulators: Emulators, tmp_path: Path, project: str
) -> None:
    with deployed(emulators, tmp_path, project) as function, ThreadPoolExecutor(1) as pool:
        function.refuse("198.51.100.7")
        control = emulators.control("pubsub")
        control.add_fault(CallFault(service="pubsub", method="Publish", latency_s=1.0, times=1, resource=project))
        try:
            answer = pool.submit(function.refuse, "192.0.2.7")
            time.sleep(0.4)
            function.stop()
            assert answer.result().status_code in (400, 401)
        finally:
            control.clear_faults()
        ((*recorded, last),) = function.chains()
    assert len(recorded) == 2
    assert last["event_type"] == "chain.closed"


def test_a_caller_that_never_comes_to_the_end_of_its_body_keeps_nothing_from_being_published(
    emulators: Emulators, tmp_path: Path, project: str
) -> None:
    """The process waited for it until it was killed, with its chain open and what waited unsent."""
    head = "POST /edge/token HTTP/1.1\r\nHost: cab.test\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\n"
    with deployed(emulators, tmp_path, project) as function:
        function.refuse("198.51.100.7")
        address = urlsplit(function.url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
            connection.sendall(head.encode() + b"grant_type=")
            time.sleep(0.3)  # it is read, and the rest waited for
            function.stop()
        ((_, last),) = function.chains()
    assert last["event_type"] == "chain.closed"


def test_every_worker_closes_its_own_chain(emulators: Emulators, tmp_path: Path, project: str) -> None:
    with deployed(emulators, tmp_path, project, WORKERS="3") as function:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(function.refuse, [f"198.51.{number}.7" for number in range(60)]))
        function.stop()
        chains = function.chains()
    assert sum(len(events) - 1 for events in chains) == 60
    assert {events[-1]["event_type"] for events in chains} == {"chain.closed"}


def test_a_process_that_served_nobody_stops_at_once(emulators: Emulators, tmp_path: Path, project: str) -> None:
    with deployed(emulators, tmp_path, project) as function:
        function.stop()
        assert function.chains() == []


@pytest.fixture
def project() -> str:
    """Tests share emulators, never data."""
    return f"demo-{uuid.uuid4().hex[:12]}"

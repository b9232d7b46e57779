"""Every fault switch of the provider double: what the client sees, and what the ledger knows happened."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from tests.dev.doubles.provider_client import SECRET, ProviderUnderTest


def events_of(double: ProviderUnderTest, event: str) -> int:
    return sum(entry["event"] == event for entry in double.ledger()["entries"])


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_an_error_status_is_answered_for_the_next_requests_only_and_spends_nothing(status: int) -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="status", status=status, retry_after=7, count=2)

    for _ in range(2):
        answer = double.refresh(first["refresh_token"])
        assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")

    assert events_of(double, "refreshed") == 0
    assert double.refresh(first["refresh_token"]).status_code == 200


def test_a_fault_without_a_count_stays_until_it_is_cleared() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="status", status=503)
    assert [double.refresh(first["refresh_token"]).status_code for _ in range(3)] == [503] * 3
    assert len(double.http.get("/_control/faults").json()["faults"]) == 1

    assert double.http.delete("/_control/faults").json() == {"faults": []}

    assert double.refresh(first["refresh_token"]).status_code == 200


def test_a_lost_answer_has_rotated_the_token_and_the_ledger_knows() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="status", status=502, after_commit=True, count=1, grant_type="refresh_token")

    assert double.refresh(first["refresh_token"]).status_code == 502

    assert events_of(double, "refreshed") == 1
    assert events_of(double, "answer_lost") == 2
    assert double.refresh(first["refresh_token"]).json() == {"error": "invalid_grant"}


def test_after_a_lost_answer_a_leeway_provider_forgives_the_retry() -> None:
    double = ProviderUnderTest("acme-tracker")
    first = double.connect()
    double.set_fault(kind="status", after_commit=True, count=1)

    assert double.refresh(first["refresh_token"]).status_code == 503
    assert double.refresh(first["refresh_token"]).status_code == 200


def test_a_fault_for_one_grant_type_leaves_the_others_alone() -> None:
    double = ProviderUnderTest("acme-crm")
    double.set_fault(kind="status", status=500, grant_type="refresh_token")

    first = double.connect()

    assert double.refresh(first["refresh_token"]).status_code == 500


@pytest.mark.parametrize("status", [400, 403])
def test_a_false_invalid_grant_touches_nothing(status: int) -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="invalid_grant", status=status, count=1)

    false = double.refresh(first["refresh_token"])

    assert (false.status_code, false.json()) == (status, {"error": "invalid_grant"})
    assert events_of(double, "refused") == 0
    assert double.refresh(first["refresh_token"]).status_code == 200


def test_an_error_can_come_with_status_200() -> None:
    double = ProviderUnderTest("acme-crm")
    double.set_fault(kind="error_200", error="internal_failure", count=1)
    answer = double.refresh("anything")
    assert (answer.status_code, answer.json()) == (200, {"error": "internal_failure"})


@pytest.mark.parametrize(
    ("body", "looks_right"),
    [
        ("html", lambda content: content.startswith(b"<!doctype html>")),
        ("garbage", lambda content: b"\xff\xfe" in content),
        ("empty_object", lambda content: content == b"{}"),
        ("large", lambda content: len(content) > 1024 * 1024),
    ],
)
def test_odd_bodies_come_with_status_200(body: str, looks_right: Callable[[bytes], bool]) -> None:
    double = ProviderUnderTest("acme-crm")
    double.set_fault(kind="body", body=body, count=1)
    answer = double.refresh("anything")
    assert answer.status_code == 200
    assert looks_right(answer.content)


def test_the_refresh_token_can_be_missing_from_the_answer() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="answer", answer="no_refresh_token", count=1)
    assert "refresh_token" not in double.refresh(first["refresh_token"]).json()


@pytest.mark.parametrize("value", ["3600", -1, 1e12, None, True])
def test_expires_in_can_be_nonsense(value: Any) -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="answer", answer="expires_in", value=value, count=1)
    assert double.refresh(first["refresh_token"]).json()["expires_in"] == value


def test_expires_in_can_be_absent() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="answer", answer="expires_in", value="absent", count=1)
    assert "expires_in" not in double.refresh(first["refresh_token"]).json()


def test_the_answer_can_name_a_scope_nobody_granted() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect(scope="read offline_access")
    double.set_fault(kind="answer", answer="extra_scope", count=1)
    assert double.refresh(first["refresh_token"]).json()["scope"] == "read offline_access admin.all"


def test_a_good_answer_can_be_a_megabyte_or_form_encoded() -> None:
    double = ProviderUnderTest("acme-tracker")
    first = double.connect()
    double.set_fault(faults=[{"kind": "answer", "answer": answer, "count": 1} for answer in ("large", "form_encoded")])

    large = double.refresh(first["refresh_token"])
    form_encoded = double.refresh(first["refresh_token"])

    assert len(large.content) > 1024 * 1024
    assert double.works(large.json()["access_token"])
    assert form_encoded.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert double.works(parse_qs(form_encoded.text)["access_token"][0])


@pytest.mark.parametrize(
    ("endpoint", "request_it"),
    [
        ("revoke", lambda double: double.http.post("/oauth/revoke", data={"token": "x"}, auth=("cab", SECRET))),
        ("userinfo", lambda double: double.http.get("/oauth/userinfo")),
        ("authorize", lambda double: double.http.get("/oauth/authorize", params=double.authorize_query())),
        ("discovery", lambda double: double.http.get("/.well-known/oauth-authorization-server")),
    ],
)
def test_every_endpoint_has_its_own_faults(endpoint: str, request_it: Callable[[ProviderUnderTest], Any]) -> None:
    double = ProviderUnderTest("acme-crm")
    double.set_fault(endpoint=endpoint, kind="status", status=503, count=1)
    assert double.refresh("anything").status_code == 400
    assert request_it(double).status_code == 503
    assert request_it(double).status_code != 503


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"kind": "nonsense"},
        {"kind": "status", "status": 200},
        {"kind": "status", "status": "503"},
        {"kind": "status", "status": True},
        {"kind": "status", "count": 0},
        {"kind": "status", "endpoint": "moon"},
        {"kind": "status", "after_commit": "yes"},
        {"kind": "status", "surprise": 1},
        {"kind": "slow", "seconds": -1},
        {"kind": "slow", "seconds": "1"},
        {"kind": "answer", "answer": "nonsense"},
        {"kind": "body", "body": []},
        {"faults": "all of them"},
        {"faults": [{"kind": "status"}, 7]},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_as_a_whole(fault: dict[str, Any]) -> None:
    double = ProviderUnderTest("acme-crm")
    assert double.http.post("/_control/faults", json=fault).status_code == 400
    assert double.http.get("/_control/faults").json() == {"faults": []}


# --- answers that take their time: driven at the ASGI level, where the test decides when the client leaves ------------


class OpenRequest:
    """A token request that is under way. `leave()` is the client closing its connection."""

    def __init__(self, double: ProviderUnderTest, **form: str) -> None:
        self.sent: list[dict[str, Any]] = []
        self._left = asyncio.Event()
        body = urlencode({**form, "client_id": "cab", "client_secret": SECRET}).encode()
        self._messages = [{"type": "http.request", "body": body, "more_body": False}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/oauth/token",
            "raw_path": b"/oauth/token",
            "query_string": b"",
            "scheme": "http",
            "headers": [(b"host", b"127.0.0.1:9000"), (b"content-type", b"application/x-www-form-urlencoded")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 9000),
        }
        app: Callable[..., Awaitable[None]] = double.http.app
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self._left.set()

    async def runs_for_a_while(self) -> bool:
        for _ in range(50):
            await asyncio.sleep(0)
        return not self.task.done()

    def answer(self) -> Any:
        return json.loads(b"".join(message.get("body", b"") for message in self.sent))


async def test_a_hanging_endpoint_answers_nobody_until_the_faults_are_cleared() -> None:
    double = ProviderUnderTest("acme-crm")
    double.set_fault(kind="hang")
    hanging = OpenRequest(double, grant_type="refresh_token", refresh_token="x")
    assert await hanging.runs_for_a_while()

    double.provider.faults.clear()

    await asyncio.wait_for(hanging.task, 5)
    assert hanging.sent[0]["status"] == 503


async def test_a_hanging_endpoint_lets_go_when_the_client_leaves() -> None:
    double = ProviderUnderTest("acme-crm")
    double.set_fault(kind="hang", count=1)
    hanging = OpenRequest(double, grant_type="refresh_token", refresh_token="x")
    assert await hanging.runs_for_a_while()

    hanging.leave()

    await asyncio.wait_for(hanging.task, 5)


async def test_a_slow_endpoint_works_after_its_wait() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="slow", seconds=0.02, count=1)
    slow = OpenRequest(double, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert await slow.runs_for_a_while()
    assert events_of(double, "refreshed") == 0

    await asyncio.wait_for(slow.task, 5)

    assert double.works(slow.answer()["access_token"])


async def test_a_provider_that_hangs_after_its_commit_has_rotated() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="hang", after_commit=True, count=1)
    hanging = OpenRequest(double, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert await hanging.runs_for_a_while()
    assert events_of(double, "refreshed") == 1

    hanging.leave()
    await asyncio.wait_for(hanging.task, 5)

    assert events_of(double, "answer_lost") == 2


async def test_an_answer_that_comes_after_the_client_has_gone_is_lost() -> None:
    double = ProviderUnderTest("acme-crm")
    first = double.connect()
    double.set_fault(kind="slow", seconds=60, count=1)
    slow = OpenRequest(double, grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert await slow.runs_for_a_while()

    slow.leave()
    await asyncio.wait_for(slow.task, 5)

    assert events_of(double, "refreshed") == 1
    assert events_of(double, "answer_lost") == 2


async def test_a_broken_off_answer_announces_more_than_it_sends() -> None:
    double = ProviderUnderTest("acme-crm")
    double.set_fault(kind="reset", count=1)
    broken = OpenRequest(double, grant_type="refresh_token", refresh_token="x")

    await asyncio.wait_for(broken.task, 5)

    announced = int(dict(broken.sent[0]["headers"])[b"content-length"])
    assert sum(len(message.get("body", b"")) for message in broken.sent) < announced
    assert broken.sent[-1]["more_body"] is True

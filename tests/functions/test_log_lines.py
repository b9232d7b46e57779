"""What functions say in their logs is what Terraform's log-based metrics count, and lines of one request are joined by its trace."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.world import CRM, IDP, TOKEN_EXCHANGE, World, intent, task

from cab.ports import HttpAnswer
from cab.transport.logs import JsonLines
from cab.use_cases.audit.lines import CREDENTIAL_REFUSED, MESSAGES

ROOT: Final = Path(__file__).resolve().parents[2]
TRACE: Final = "0123456789abcdef0123456789abcdef"
TRACEPARENT: Final = f"00-{TRACE}-00f067aa0ba902b7-01"
Line = dict[str, Any]


class Counted:
    """One metric of terraform/alerts.tf: its filter, and the member that becomes its label."""

    def __init__(self, name: str, message: str, by: str | None) -> None:
        self.name = name
        self._message = message
        self.by = by

    def holds(self, line: Line) -> bool:
        """As Cloud Logging compares a line of standard error that is a JSON object: its `message` stays in jsonPayload."""
        return bool(line["message"] == self._message)


def metrics() -> dict[str, Counted]:
    text = (ROOT / "terraform" / "alerts.tf").read_text("utf-8")
    # The two filters themselves are compared, so that nobody changes them without this test.
    assert text.count(r'jsonPayload.message = \"credential refused\""') == 1
    assert text.count(r'jsonPayload.message = \"${each.value.message}\""') == 1
    assert text.count("EXTRACT(jsonPayload.${each.value.by})") == 1
    rows = re.findall(r'([a-z-]+) = \{\n\s+what\s+= "[^"]+"\n\s+message = "([^"]+)"\n\s+by\s+= "(\w+)"', text)
    found = {name: Counted(name, message, by) for name, message, by in rows}
    return found | {"credentials-refused": Counted("credentials-refused", CREDENTIAL_REFUSED, None)}


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Line]]:
    """The lines as they would stand in the log, read again."""

    def lines() -> list[Line]:
        return [json.loads(JsonLines("p").format(record)) for record in caplog.records]

    caplog.set_level(logging.WARNING)
    return lines


async def _wrong_credential(world: World) -> None:
    wrong = world.credentials("assistant", aud="https://other.test")
    await world.post("/oauth2/token", {"grant_type": TOKEN_EXCHANGE} | wrong)


async def _replay(world: World) -> None:
    form = await world.exchange_form() | world.credentials("assistant")
    for _ in range(2):
        await world.post("/oauth2/token", form)


async def _too_many(world: World) -> None:
    drop = intent("warehouse.table.drop", "table/t1")
    for _ in range(6):
        await world.exchange(drop, subject_token=await world.assertion(user="alice", task=task("*")))


async def _failing_policy(world: World) -> None:
    await world.exchange(intent("warehouse.report.sum", "report/r1", parameters={"offset": 1000}))


async def _list_deals(world: World) -> None:
    assertion = await world.assertion(user="alice")
    world.advance(3600)
    assertion = await world.assertion(user="alice")
    await world.exchange(intent("crm.deal.list", "deal/*"), subject_token=assertion)


async def _ended_grant(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")

    async def refuse(_: Any) -> HttpAnswer:
        return HttpAnswer(400, {"content-type": "application/json"}, b'{"error":"invalid_grant"}')

    world.web.hosts[CRM] = refuse
    await _list_deals(world)


async def _silent_provider(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    world.web.down.add(CRM)
    await _list_deals(world)


async def _silent_idp(world: World) -> None:
    world.web.down.add(IDP)
    await world.mint()


SCENES: Final[dict[str, Callable[[World], Awaitable[None]]]] = {
    "credentials-refused": _wrong_credential,
    "spent-again": _replay,
    "rate-limited": _too_many,
    "policy-error": _failing_policy,
    "needs-reauth": _ended_grant,
    "provider-unavailable": _silent_provider,
    "idp-unavailable": _silent_idp,
}


@pytest.mark.parametrize("name", SCENES)
async def test_the_metric_counts_what_the_functions_write_when_it_happens_and_nothing_else_does(
    world: World, name: str, written: Callable[[], list[Line]]
) -> None:
    await SCENES[name](world)
    counted = {metric.name: [line for line in written() if metric.holds(line)] for metric in metrics().values()}
    assert {metric for metric, lines in counted.items() if lines} == {name}, written()
    by = metrics()[name].by
    if by is not None:
        assert any(line.get(by) for line in counted[name]), counted[name]
    for line in counted[name]:
        assert line["severity"] == "WARNING"


def test_every_line_has_its_metric_and_every_metric_its_scene_and_runbook() -> None:
    known = metrics()
    assert set(known) == set(SCENES)
    assert {metric._message for metric in known.values()} == MESSAGES
    for name in known:
        assert (ROOT / "docs" / "runbooks" / f"{name}.md").is_file(), name


async def test_lines_of_a_request_name_its_trace_as_cloud_logging_reads_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    formatted: list[Line] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            formatted.append(json.loads(JsonLines("p").format(record)))

    caplog.set_level(logging.WARNING)
    kept = Kept()
    logging.getLogger().addHandler(kept)
    try:
        form = {"grant_type": TOKEN_EXCHANGE} | world.credentials("assistant", aud="https://other.test")
        await world.post("/oauth2/token", form, headers=[("traceparent", TRACEPARENT)])
        await world.post("/oauth2/token", form)
    finally:
        logging.getLogger().removeHandler(kept)
    joined, alone = formatted
    assert joined["logging.googleapis.com/trace"] == f"projects/p/traces/{TRACE}"
    assert joined["logging.googleapis.com/spanId"] == "00f067aa0ba902b7"
    assert joined["logging.googleapis.com/trace_sampled"] is True
    assert not [name for name in alone if name.startswith("logging.googleapis.com/")]


async def test_an_audit_event_names_the_same_trace(world: World) -> None:
    await world.exchange(headers=[("traceparent", TRACEPARENT)])
    assert world.events()[-1].trace_id == TRACE


def test_members_of_a_line_cannot_pass_for_its_severity_or_message() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "spent again", None, None)
    record.said = {"message": "nothing", "severity": "DEBUG", "reason_code": "rate_limited"}
    line = json.loads(JsonLines("p").format(record))
    assert (line["message"], line["severity"], line["reason_code"]) == ("spent again", "WARNING", "rate_limited")

"""docs/api.md is true: its examples run against the stack, its error table is the one in the code."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import pytest
import requests
from examples.acme.person import Person
from tests.client.test_wire import compared, sent_by
from tests.running_stack import ROOT, Stack

from cab.domain.errors import Reason
from cab.protocol.oauth_errors import TABLE
from cab.transport.openapi import PAGE_REASONS
from cab_client import Agent, Connection, FrontEnd, Intent, PrivateKeyJwt, Task

DOCUMENT = ROOT / "docs" / "api.md"


def test_the_error_table_is_complete_and_true() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d{3}) \| (.+) \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    documented = [(reason, error, int(status)) for reason, error, status, _ in rows]
    expected = [(reason.value, *TABLE[reason]) for reason in Reason if reason not in PAGE_REASONS]
    assert sorted(documented) == sorted(expected)
    assert all(remedy.strip() for *_, remedy in rows)


class Told(NamedTuple):
    """What the examples defined, and what they asked of the token endpoints: address and form, in their order."""

    names: dict[str, Any]
    asked: list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def told(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The examples of the document, run in its order."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / ".cab").mkdir()
    (folder / ".cab" / "dev").symlink_to(stack.state_dir)
    names: dict[str, Any] = {"__name__": "examples_of_the_api_document"}
    asked: list[tuple[str, bytes]] = []
    send = requests.Session.send

    def noting(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if str(request.url).endswith("/token"):
            body = request.body or b""
            asked.append((str(request.url), body.encode() if isinstance(body, str) else body))
        return send(session, request, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Session, "send", noting)
        patch.chdir(folder)
        patch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "shared"), str(ROOT))))
        for example, comment in re.findall(
            r"^```python\n(.*?)^```$|^<!-- (.*) -->$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL
        ):
            if comment == "alice approves":
                person = Person("alice")
                assert person.decide(names["pending"]["interaction_uri"], approve=True).status == 200
                person.close()
            else:
                exec(compile(example, str(DOCUMENT), "exec"), names)  # noqa: S102
    return Told(names, asked)


@pytest.mark.stack
def test_the_examples_run_in_the_order_of_the_document(told: Told) -> None:
    assert told.names["confirmed"].access_token


@pytest.mark.stack
def test_the_client_sends_what_the_examples_send(told: Told) -> None:
    """Each of the document's requests, made by `cab_client` for the same purpose: the same address, the same parameters."""
    stack = told.names["stack"]
    by_purpose = {purpose_of(one): one for one in reversed(told.asked)}  # the first of each
    front_end, agent = (stack["front_end"], stack["agents"]["sales-assistant"])
    connections = {
        name: Connection(entry["api_base"], resource=entry["resource"]) for name, entry in stack["connections"].items()
    }

    def credential(entry: dict[str, Any]) -> PrivateKeyJwt:
        return PrivateKeyJwt(entry["client_id"], key_file=entry["private_key_file"])

    web = FrontEnd(stack["origin"], credential(front_end))
    cab = Agent(stack["origin"], credential(agent), connections=connections)
    id_token, assertion = (form_of(by_purpose[one])["subject_token"] for one in ("mint", "exchange"))
    code = form_of(by_purpose["redeem"])["deferral_code"]
    task = Task(
        task_id="t-81",
        actions=("crm.opportunity.*", "tracker.task.create"),
        identifiers=("opportunity/*", "task/*"),
    )
    read = Intent("crm.opportunity.read", on="crm", identifier="opportunity/0061")
    write = Intent(
        "tracker.task.create",
        on="tracker",
        identifier="task/*",
        parameters={"title": "Call Acme", "priority": "high"},
    )
    pending = {"reason_code": "authorization_pending", "uri": None, "until": None, "interval": 1, "txn": None}
    less = replace(task, actions=("crm.opportunity.read",))
    made: dict[str, Callable[[], Any]] = {
        "mint": lambda: web.mint(id_token, may_act="sales-assistant", task=task),
        "exchange": lambda: cab.permit(read, assertion=assertion),
        "defer": lambda: cab.permit(write, assertion=assertion, deferred=True),
        "redeem": lambda: cab.pending(json.dumps({**pending, "deferral_code": code, "intent": None})).wait(0),
        "delegate": lambda: cab.delegate("ops-bot", task=less, assertion=assertion),
    }
    for purpose, call in made.items():
        assert sent_by(call, stack["origin"]) == compared(by_purpose[purpose]), purpose


def form_of(request: tuple[str, bytes]) -> dict[str, str]:
    return dict(parse_qsl(request[1].decode(), strict_parsing=True))


def purpose_of(request: tuple[str, bytes]) -> str:
    form = form_of(request)
    if request[0].endswith("/edge/token"):
        return "mint" if "authorization_details" in form else "mint without a task"
    if "deferral_code" in form:
        return "redeem"
    if "may_act" in form:
        return "delegate"
    return "defer" if "completion_mode" in form else "exchange"

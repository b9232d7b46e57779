"""docs/client.md is true: its examples run as they stand, against a broker in this process."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from tests.running_stack import ROOT

from cab_client import Intent, Secret, errors
from cab_client.resource import Caller
from cab_client.testing import FakeBroker, new_key

TEXT = (ROOT / "docs" / "client.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
CRM = "https://crm.acme.example"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that the page's examples define."""
    (tmp_path / "key.json").write_text(json.dumps(new_key()))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page", "crm": Starlette(), "pytest": pytest}
    for example in EXAMPLES:
        exec(compile(example, "docs/client.md", "exec"), names)  # noqa: S102
    return names


def minted(cab_fake: FakeBroker, page: dict[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = page["chat"](cab_fake.id_token("alice"), "Note that they have signed")
    return headers


def test_the_front_ends_assertion_is_what_the_agent_acts_by(cab_fake: FakeBroker, page: dict[str, Any]) -> None:
    cab_fake.permit("crm.note.create")
    cab_fake.answer("POST", f"{CRM}/opportunities/0061/notes", {"id": "n-1"}, status=201)
    assert page["handle"](minted(cab_fake, page)) == {"id": "n-1"}
    (exchange,) = cab_fake.exchanges
    assert exchange.intent.parameters == {"text": "They have signed."}


def test_a_login_that_has_ended_leads_to_the_login(cab_fake: FakeBroker, page: dict[str, Any]) -> None:
    token = cab_fake.id_token("alice")
    cab_fake.end_login(token)
    assert page["chat"](token, "x") == {"Location": "/login"}


def test_a_program_waits_for_the_user(
    cab_fake: FakeBroker, page: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cab_fake.ask("crm.opportunity.delete")

    def approve() -> None:
        end = time.monotonic() + 10
        while not (found := re.search(r"https://\S+/approvals/\S+", "".join(shown))) and time.monotonic() < end:
            shown.append(capsys.readouterr().out)
            time.sleep(0.01)
        assert found is not None
        cab_fake.approve(found[0], user="alice")

    shown: list[str] = []
    deciding = threading.Thread(target=approve)
    deciding.start()
    with page["acting_for"](cab_fake.user("alice")):
        assert page["delete_and_wait"]("0061") == 200
    deciding.join()


def test_another_agent_is_handed_an_assertion_of_its_own(cab_fake: FakeBroker, page: dict[str, Any]) -> None:
    mine = cab_fake.user("alice", agent="sales-assistant")
    cab_fake.answer("POST", "https://ops.acme.example/look", {"seen": "0061"})
    assert page["ask_operations"](mine) == {"seen": "0061"}
    (request,) = cab_fake.requests
    sent = request.headers.get_list("CAB-Assertion")
    assert len(sent) == 1
    assert sent[0] != mine.reveal()
    assert "authorization" not in request.headers


def test_the_resource_is_guarded(page: dict[str, Any]) -> None:
    import asyncio

    async def status(path: str) -> int:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(page["app"])) as client:
            return (await client.get(f"{CRM}{path}")).status_code

    assert asyncio.run(status("/opportunities")) == 401
    assert asyncio.run(status("/health")) == 404  # the empty application's own


def test_the_resource_says_what_came_of_it(cab_fake: FakeBroker, page: dict[str, Any]) -> None:
    """The page's issuer is not the fake; only what is told is."""
    cab_fake.permit("crm.opportunity.read", effect="read")
    cab_fake.report_as("crm-api", CRM)
    with page["acting_for"](cab_fake.user("alice")):
        permit = page["agent"].permit(Intent("crm.opportunity.read", on="crm", identifier="opportunity/0061"))
    reporter = page["reporter"]
    reporter.tell(Secret(permit.reveal()), Caller(cab_fake.claims(permit.reveal())), 404)
    assert reporter.flush(10)
    assert [(one["observed_by"], one["outcome"]) for one in cab_fake.outcomes] == [("resource", "rejected")]


@pytest.mark.parametrize("name", ["test_a_note_is_declared", "test_a_deletion_asks"])
def test_the_pages_own_tests_pass(cab_fake: FakeBroker, page: dict[str, Any], name: str) -> None:
    page[name](cab_fake)


def test_every_error_is_on_the_page() -> None:
    from cab_client.between import NoAssertion

    kinds = {
        value.__name__
        for value in [*vars(errors).values(), NoAssertion]
        if isinstance(value, type) and issubclass(value, errors.CabError) and value is not errors.CabError
    }
    assert {kind for kind in kinds if f"`{kind}`" not in TEXT} == set()


def test_a_user_needs_at_most_fifteen_lines_for_mint_exchange_and_deferral(cab_fake: FakeBroker) -> None:
    cab_fake.ask("crm.opportunity.delete")
    id_token, key = cab_fake.id_token("alice"), new_key()
    program = """
from cab_client import Agent, ConfirmationNeeded, FrontEnd, Intent, PrivateKeyJwt, Task
task = Task.for_turn("Drop it", actions=["crm.opportunity.*"], identifiers=["opportunity/*"])
front_end = FrontEnd(origin, PrivateKeyJwt("acme-web", key=key))
assertion = front_end.mint(id_token, may_act="sales-assistant", task=task)
agent = Agent(origin, PrivateKeyJwt("sales-assistant", key=key), connections={"crm": "https://crm.fake"})
intent = Intent("crm.opportunity.delete", on="crm", identifier="opportunity/0061")
try:
    permit = agent.permit(intent, assertion=assertion, deferred=True)
except ConfirmationNeeded as needed:
    approve(needed.uri)
    permit = needed.wait()
"""
    names: dict[str, Any] = {"origin": cab_fake.origin, "id_token": id_token, "key": key}
    names["approve"] = lambda uri: cab_fake.approve(uri, user="alice")
    exec(program, names)  # noqa: S102
    assert names["permit"].reveal()
    assert len(program.strip().splitlines()) <= 15

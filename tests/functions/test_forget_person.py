"""`cab people forget`: what is kept of one person goes, everybody else's stays, and tokens are revoked before anything is forgotten."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support.world import ACCOUNTS, DROP, IDP, REFRESH_GRANTS, World, intent, task

import cab_ops.cli.people
from cab.domain.identifiers import subject_key
from cab.stores.sessions import BrowserStates, Session
from cab_ops.cli import main
from cab_ops.forget_person import ForgetPerson, Forgotten

IN_CRM = intent("crm.deal.list", "deal/*")
KEPT = ("departures/", "deferrals/", "deferral_polls/")  # docs/privacy.md says why, and until when


def of(world: World, user: str) -> str:
    return subject_key("acme", IDP, user)


def documents_of(world: World, user: str) -> list[str]:
    """Every document of every database that names the person, whatever it is called."""
    return sorted(
        f"{database}:{path}"
        for database, documents in world.cloud.documents.items()
        for path, document in documents._documents.items()
        if of(world, user) in str(document.fields) and not path.startswith(KEPT)
    )


async def a_life(world: World, user: str) -> str:
    """A grant that was used, a question that was answered and one that waits, a session. The grant's id."""
    grant = await world.connect(user, "crm", "deal.read")
    assertion = await world.assertion(user=user, task=task("*"))
    assert (await world.exchange(IN_CRM, subject_token=assertion)).status == 200
    for number in range(2):
        asked = intent("warehouse.table.drop", f"table/t{number}")
        pending = await world.exchange(asked, subject_token=assertion)
        assert pending.reason == "confirmation_required", pending.body
        if number == 0:
            await world.decide(pending.json["interaction_uri"], approved=True)
    now = world.clock.now()
    session = Session("acme", of(world, user), IDP, [], now, None, [], "Alice", "csrf", now + timedelta(hours=1))
    await BrowserStates(world.cloud.documents["approvals"]).put(f"cookie of {user}", session)
    return grant


async def revoke(world: World, user: str) -> None:
    body = {"tenant": "acme", "subject": of(world, user), "cause": "erasure", "txn": "t-1"}
    token = world.google_token(REFRESH_GRANTS, email=f"connect-account@{ACCOUNTS}")
    assert (await world.call_service("/grants/revoke", body, token)).status == 200


async def sweep(world: World, grant: str) -> None:
    world.advance(61)  # token sets are destroyed a minute after the grant ended
    token = world.google_token(REFRESH_GRANTS, email=f"pubsub-push@{ACCOUNTS}")
    body = {"message": {"data": b64encode(grant.encode()).decode()}}
    assert (await world.call_service("/grants/due", body, token)).status == 200


def forgetting(world: World) -> ForgetPerson:
    stores = world.cloud.documents
    return ForgetPerson(guards=stores["guards"], approvals=stores["approvals"], grants=stores["grants"])


async def test_nothing_in_any_database_names_a_forgotten_person_and_nobody_else_loses_anything(world: World) -> None:
    grant = await a_life(world, "alice")
    await a_life(world, "bob")
    bobs = documents_of(world, "bob")
    assert len(documents_of(world, "alice")) == len(bobs) >= 5

    await revoke(world, "alice")
    await sweep(world, grant)
    done = await forgetting(world)("acme", of(world, "alice"))

    assert done.still_ending == 0
    assert done.deleted == {
        "sessions": 1,
        "connect_states": 0,
        "account_questions": 0,
        "approvals": 2,
        "issued_tokens": 1,
        "grants": 1,
    }
    assert documents_of(world, "alice") == []
    assert documents_of(world, "bob") == bobs
    assert await forgetting(world)("acme", of(world, "alice")) == Forgotten(dict.fromkeys(done.deleted, 0), 0)


async def test_a_grant_stays_until_its_tokens_are_revoked_and_destroyed(world: World) -> None:
    grant = await a_life(world, "alice")
    done = await forgetting(world)("acme", of(world, "alice"))
    assert (done.deleted["grants"], done.still_ending) == (0, 1)
    await revoke(world, "alice")
    assert (await forgetting(world)("acme", of(world, "alice"))).still_ending == 1
    await sweep(world, grant)
    assert (await forgetting(world)("acme", of(world, "alice"))).deleted["grants"] == 1


async def test_answers_of_a_forgotten_person_are_good_for_nothing(world: World) -> None:
    assertion = await world.assertion(user="alice", task=task("*"))
    pending = await world.exchange(DROP, subject_token=assertion, completion_mode="deferred")
    await world.decide(pending.json["interaction_uri"], approved=True)
    await forgetting(world)("acme", of(world, "alice"))
    assert (await world.poll(pending.json["deferral_code"])).reason == "deferral_code_invalid"


async def test_an_answer_whose_question_is_gone_is_forgotten_too(world: World) -> None:
    assertion = await world.assertion(user="alice", task=task("*"))
    pending = await world.exchange(DROP, subject_token=assertion)
    await world.decide(pending.json["interaction_uri"], approved=True)
    assert (await world.exchange(DROP, subject_token=assertion)).status == 200
    assert documents_of(world, "alice") != []
    assert (await forgetting(world)("acme", of(world, "alice"))).deleted["approvals"] == 1
    assert documents_of(world, "alice") == []


# --- the command ---


class Ending:
    """Grants that take three looks to end."""

    def __init__(self) -> None:
        self.looks = 0

    async def __call__(self, tenant: str, subject: str) -> Forgotten:
        self.looks += 1
        return Forgotten({"sessions": 1, "grants": self.looks == 3}, max(0, 3 - self.looks))


async def test_it_looks_until_all_has_ended_and_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cab_ops.cli.people, "_LOOKS_AGAIN_S", 0.0)
    ending: Any = Ending()
    assert await cab_ops.cli.people.until_ended(ending, "acme", "s", 5) == Forgotten({"sessions": 3, "grants": 1}, 0)
    ending = Ending()
    assert (await cab_ops.cli.people.until_ended(ending, "acme", "s", 0)).still_ending == 2


def test_the_command_ends_grants_first_and_fails_while_some_are_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, Any]] = []

    async def ask(_url: str, what: str, document: dict[str, Any]) -> dict[str, Any]:
        said.append((what, document))
        return {"revoked": []}

    async def forget(_project: str, tenant: str, subject: str, wait_s: int) -> Forgotten:
        said.append(("forget", (tenant, subject, wait_s)))
        return Forgotten({"grants": 0}, still_ending=1)

    monkeypatch.setattr(cab_ops.cli.people, "ask_refresh_grants", ask)
    monkeypatch.setattr(cab_ops.cli.people, "_forget", forget)
    options = ("--project", "p", "--url", "https://refresh.test", "--tenant", "acme", "--json")
    done = CliRunner().invoke(main, ["people", "forget", *options, "--idp", IDP, "alice"])
    key = subject_key("acme", IDP, "alice")
    assert said == [
        ("revoke", {"tenant": "acme", "subject": key, "cause": "erasure"}),
        ("forget", ("acme", key, 150)),
    ]
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"deleted": {"grants": 0}, "still_ending": 1}
    assert "run it again" in done.stderr


@pytest.mark.parametrize("subject", ["alice@acme.example", "00u1a2b3c4", "x" * 44])
def test_a_name_that_is_no_key_is_not_forgotten_without_its_identity_provider(subject: str) -> None:
    """It was: nothing was found, nothing deleted, and the command succeeded."""
    command = ["people", "forget", "--project", "p", "--url", "http://127.0.0.1:9", "--tenant", "acme", subject]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "give --idp" in done.stderr


async def test_a_token_of_a_forgotten_grant_is_not_handed_out_of_memory_for_the_next_one(world: World) -> None:
    """The next consent may be for another account, and the former one's token may live on where the provider cannot end it."""
    grant = await world.connect("alice", "crm", "deal.read")
    before = (await world.exchange(IN_CRM, subject_token=await world.assertion(user="alice"))).json["access_token"]
    await revoke(world, "alice")
    await sweep(world, grant)
    assert (await forgetting(world)("acme", of(world, "alice"))).deleted["grants"] == 1

    await world.connect("alice", "crm", "deal.read")
    after = await world.exchange(IN_CRM, subject_token=await world.assertion(user="alice"))

    assert after.status == 200
    assert after.json["access_token"] != before

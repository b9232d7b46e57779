"""What each dependency's absence does: a clear answer, nothing issued, recovery without restart (docs/api.md)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.world import CLIENTS, CRM, FORM, IDP, REFRESH_GRANTS, World, as_form, gather, intent, task

from cab.ports import Unavailable

STORE = (503, "temporarily_unavailable", "store_unavailable")
PROVIDER = (503, "temporarily_unavailable", "provider_unavailable")
LISTING = intent("crm.deal.list", "deal/*")


async def exchange(world: World, **changes: Any) -> Answer:
    """An exchange whose assertion was minted while all was well."""
    return await world.exchange(changes.pop("declared", None), **changes)


@pytest.mark.parametrize("method", ["read", "write", "tally", "find"])
@pytest.mark.parametrize("lost_answer", [False, True])
@pytest.mark.parametrize("database", ["guards", "approvals", "keys", "grants"])
async def test_whatever_store_fails_the_answer_is_a_token_or_come_back(
    world: World, database: str, method: str, lost_answer: bool
) -> None:
    """Every outage ends as an outage: never a token without its checks, never a 500."""
    share = intent("warehouse.table.share", "table/t1")
    bounds = task("*", limits={"max_uses": 100})
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice", task=bounds)
    world.break_documents(database, method, after=lost_answer)
    deferred: dict[str, Any] = {"completion_mode": "deferred"}
    for declared, extra in ((intent(), {}), (share, {}), (share, deferred), (LISTING, {})):
        answer = await world.exchange(declared, subject_token=assertion, **extra)
        assert answer.status in (200, 503) or answer.json["error"] in ("interaction_required", "authorization_pending")
        if database == "guards" and method == "write":
            assert answer.refusal == STORE  # single use could not be recorded
    world.mend_documents(database)
    world.advance(61)
    assertion = await world.assertion(user="alice", task=bounds)
    assert (await world.exchange(intent(), subject_token=assertion)).status == 200
    assert (await world.exchange(LISTING, subject_token=assertion)).status == 200


async def test_a_limit_that_cannot_be_counted_is_not_taken_for_kept(world: World) -> None:
    drop = intent("warehouse.table.drop", "table/t1")
    assertion = await world.assertion(task=task("*"))
    world.break_documents("guards", "tally")
    assert (await world.exchange(drop, subject_token=assertion)).refusal == STORE


async def test_uses_of_a_task_that_cannot_be_counted_are_not_granted(world: World) -> None:
    assertion = await world.assertion(task=task("*", limits={"max_uses": 5}))
    world.break_documents("guards", "tally")
    assert (await world.exchange(subject_token=assertion)).refusal == STORE


async def test_a_use_whose_count_was_lost_on_the_way_back_counts(world: World) -> None:
    assertion = await world.assertion(task=task("*", limits={"max_uses": 1}))
    world.break_documents("guards", "tally", after=True)
    assert (await world.exchange(subject_token=assertion)).refusal == STORE
    world.mend_documents("guards")
    assert (await world.exchange(subject_token=assertion)).json["reason_code"] == "task_exhausted"


async def test_a_client_assertion_whose_mark_was_lost_on_the_way_back_is_spent(world: World) -> None:
    credentials = world.credentials("assistant")
    form = await world.exchange_form()
    world.break_documents("guards", "write", after=True)
    assert (await world.post("/oauth2/token", form | credentials)).refusal == STORE
    world.mend_documents("guards")
    replayed = await world.post("/oauth2/token", form | credentials)
    assert replayed.refusal == (401, "invalid_client", "client_assertion_replayed")


async def test_a_deferral_that_cannot_be_read_while_its_clients_mark_is_written_is_an_outage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was a 500: what the one had ended was awaited twice at once."""
    share = intent("warehouse.table.share", "table/t1")
    assertion = await world.assertion(task=task("*"))
    code = (await world.exchange(share, subject_token=assertion, completion_mode="deferred")).json["deferral_code"]
    credentials = world.credentials("assistant")
    guards = world.cloud.documents["guards"]

    async def fail(*_: Any, **__: Any) -> None:
        raise Unavailable("documents")

    monkeypatch.setattr(guards, "read", fail)
    monkeypatch.setattr(guards, "delay_s", 0.01)
    assert (await world.poll(code, **credentials)).refusal == STORE
    assert (await world.poll(code, **credentials)).refusal == (401, "invalid_client", "client_assertion_replayed")


async def test_an_approval_that_cannot_be_read_is_no_approval(world: World) -> None:
    share = intent("warehouse.table.share", "table/t1")
    assertion = await world.assertion(task=task("*"))
    asked = await world.exchange(share, subject_token=assertion)
    await world.decide(asked.json["interaction_uri"], approved=True)
    world.break_documents("approvals", "read")
    assert (await world.exchange(share, subject_token=assertion)).refusal == STORE
    world.mend_documents("approvals")
    assert (await world.exchange(share, subject_token=assertion)).status == 200


async def test_an_approval_whose_spending_was_lost_on_the_way_back_is_spent(world: World) -> None:
    share = intent("warehouse.table.share", "table/t1")
    assertion = await world.assertion(task=task("*"))
    asked = await world.exchange(share, subject_token=assertion)
    await world.decide(asked.json["interaction_uri"], approved=True)
    world.break_documents("guards", "write", after=True, skip=1)  # after the client assertion's own mark
    assert (await world.exchange(share, subject_token=assertion)).refusal == STORE
    world.mend_documents("guards")
    again = await world.exchange(share, subject_token=assertion)
    assert again.json["reason_code"] == "confirmation_required"
    assert again.json["interaction_uri"] != asked.json["interaction_uri"]


# --- our own keys ---


async def test_signing_goes_on_while_the_keys_database_is_away_for_a_day(world: World) -> None:
    await world.exchange()
    world.break_documents("keys")
    for hours in (1, 22):
        world.advance(hours * 3600)
        assert (await world.exchange()).status == 200
    world.advance(2 * 3600)
    assert (await world.mint()).refusal == STORE
    world.mend_documents("keys")
    assert (await world.exchange()).status == 200


@pytest.mark.parametrize("function", ["mint_assertion", "exchange_token"])
async def test_a_new_instance_without_keys_or_secrets_issues_nothing_and_recovers(world: World, function: str) -> None:
    assertion = await world.assertion()

    async def ask() -> Answer:
        if function == "mint_assertion":
            return await world.mint()
        return await world.exchange(subject_token=assertion)

    for outage in ("keys", "secrets"):
        world.restart(function)
        if outage == "keys":
            world.break_documents("keys")
        else:
            world.cloud.vault.is_down = True
        assert (await ask()).refusal == STORE
        world.mend_documents("keys")
        world.cloud.vault.is_down = False
        assert (await ask()).status == 200


async def test_a_broker_without_keys_yet_says_so(world: World) -> None:
    login = world.id_token()
    await world.set_up()
    world.cloud.documents["keys"]._documents.clear()
    assert (await world.mint(subject_token=login)).refusal == STORE
    answer = await world.request("GET", "/oauth2/jwks.json")
    assert answer.refusal == STORE


# --- other parties ---


async def test_exchanges_need_no_identity_provider(world: World) -> None:
    assertion = await world.assertion()
    world.web.down.add(IDP)
    assert (await world.exchange(subject_token=assertion)).status == 200


async def test_a_provider_that_is_away_is_told_and_what_is_cached_still_served(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "deal.write", "offline")
    update = intent("crm.deal.update", "deal/1")
    assertion = await world.assertion(user="alice", task=task("*"))
    assert (await world.exchange(LISTING, subject_token=assertion)).status == 200
    world.web.down.add(CRM)
    assert (await world.exchange(LISTING, subject_token=assertion)).status == 200
    refused = await world.exchange(update, subject_token=assertion)
    assert refused.refusal == PROVIDER
    world.web.down.clear()
    world.advance(61)
    fresh = await world.assertion(user="alice", task=task("*"))
    assert (await world.exchange(update, subject_token=fresh)).status == 200


async def test_refresh_grants_away_is_an_outage_of_ours(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice")
    world.web.down.add(REFRESH_GRANTS)
    assert (await world.exchange(LISTING, subject_token=assertion)).refusal == PROVIDER
    assert (await world.exchange(subject_token=assertion)).status == 200  # what needs no grant goes on
    world.web.down.clear()
    assert (await world.exchange(LISTING, subject_token=assertion)).status == 200


async def test_keys_of_clients_are_remembered_while_their_host_is_away(world: World) -> None:
    await world.exchange()
    world.web.down.add(CLIENTS)
    world.advance(12 * 3600)
    world.web.down.add(IDP)
    assert (await world.mint()).status == 200
    answer = await world.post("/oauth2/introspect", {"token": "x"} | world.credentials("reader"))
    assert answer.refusal == (503, "temporarily_unavailable", "idp_unavailable")  # never fetched before


async def test_everything_is_back_when_everything_is_back(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice")
    for database in ("guards", "grants", "approvals", "keys"):
        world.break_documents(database)
    world.cloud.vault.is_down = True
    world.web.down |= {IDP, CLIENTS, CRM, REFRESH_GRANTS}
    answers = await gather(
        world.mint(), world.exchange(subject_token=assertion), world.exchange(LISTING, subject_token=assertion)
    )
    assert {answer.status for answer in answers} == {503}
    for database in ("guards", "grants", "approvals", "keys"):
        world.mend_documents(database)
    world.cloud.vault.is_down = False
    world.web.down.clear()
    world.advance(10)
    assert (await world.exchange(LISTING, subject_token=await world.assertion(user="alice"))).status == 200


# --- our own mistakes ---


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/introspect", "/edge/token"])
async def test_a_bug_is_answered_in_json_without_detail_and_left_on_record(world: World, path: str) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("canary-77aa")

    forms = {
        "/oauth2/token": await world.exchange_form(),
        "/oauth2/introspect": {"token": "x"} | world.credentials("assistant"),
        "/edge/token": world.mint_form(),
    }
    world.cloud.documents["guards"].write = broken  # type: ignore[method-assign,assignment]
    answer = await world.request("POST", path, headers=[FORM], body=as_form(forms[path]))
    assert answer.refusal == (500, "server_error", "internal_error")
    assert answer.json == {"error": "server_error", "reason_code": "internal_error", "txn": answer.txn}
    assert answer.header("cache-control") == "no-store"
    event = world.last_event("mint_assertion" if path == "/edge/token" else "exchange_token")
    assert (event["outcome"], event["reason_code"]) == ("failed", "internal_error")
    assert "canary-77aa" not in str(event)

"""A database that was restored to an earlier instant: nothing that was spent since can be used again, and no rotated token is lost."""

from __future__ import annotations

import copy
from typing import Any

from tests.support.world import DROP, World, intent, task

IN_CRM = intent("crm.deal.list", "deal/*")


def copy_of(world: World, database: str) -> dict[str, Any]:
    return copy.deepcopy(world.cloud.documents[database]._documents)


def restore(world: World, database: str, kept: dict[str, Any]) -> None:
    """As `gcloud firestore databases restore` into the same name: the documents as they were, and instances that start anew."""
    stored = world.cloud.documents[database]._documents
    stored.clear()
    stored.update(copy.deepcopy(kept))
    for function in ("mint_assertion", "exchange_token", "refresh_grants", "connect_account"):
        world.restart(function)


async def test_restored_grants_are_refreshed_with_the_newest_token_and_never_with_a_spent_one(world: World) -> None:
    await world.connect("alice", "crm", "deal.read")
    kept = copy_of(world, "grants")
    for _ in range(4):
        answer = await world.exchange(IN_CRM, subject_token=await world.assertion(user="alice"))
        assert answer.status == 200
        world.advance(3600)
    sent = [form["refresh_token"] for form in world.crm.refreshes]
    assert len(sent) == len(set(sent)) == 4

    restore(world, "grants", kept)

    answer = await world.exchange(IN_CRM, subject_token=await world.assertion(user="alice"))
    assert answer.status == 200
    after = [form["refresh_token"] for form in world.crm.refreshes[4:]]
    assert after == ["crm-refresh-4"]


async def test_a_restored_yes_that_was_used_is_not_used_again(world: World) -> None:
    assertion = await world.assertion(user="alice", task=task("*"))
    pending = await world.exchange(DROP, subject_token=assertion, completion_mode="deferred")
    await world.decide(pending.json["interaction_uri"], approved=True)
    kept = copy_of(world, "approvals")
    code = pending.json["deferral_code"]
    assert (await world.poll(code)).status == 200

    restore(world, "approvals", kept)

    assert (await world.poll(code)).status == 400
    again = await world.exchange(DROP, subject_token=assertion)
    assert again.reason == "confirmation_required"


async def test_restored_keys_do_not_bring_spent_client_assertions_back(world: World) -> None:
    form = await world.exchange_form()
    kept = copy_of(world, "keys")
    assert (await world.post("/oauth2/token", form)).status == 200
    restore(world, "keys", kept)
    assert (await world.post("/oauth2/token", form)).reason == "client_assertion_replayed"


async def test_what_a_restore_does_bring_back_is_a_grant_that_was_ended_since(world: World) -> None:
    """Which is why the drill ends grants again that the audit says were ended (docs/deploying.md)."""
    grant = await world.connect("alice", "crm", "deal.read")
    kept = copy_of(world, "grants")
    await world.set_grant(grant, status="revoked")
    assert (await world.exchange(IN_CRM, subject_token=await world.assertion(user="alice"))).reason == "grant_revoked"
    restore(world, "grants", kept)
    assert (await world.exchange(IN_CRM, subject_token=await world.assertion(user="alice"))).status == 200

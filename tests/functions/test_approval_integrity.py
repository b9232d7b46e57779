"""A yes is bound to what the person saw, in the database that only the pages write: rewriting `guards` afterwards gains nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import claims_of
from tests.support.world import DROP, World, intent, task

from cab.domain.identifiers import digest
from cab.ports import Condition
from cab_dev.fakes.documents import InMemoryDocuments

REQUIRED = (400, "interaction_required", "confirmation_required")
BOUNDS = task("warehouse.*", task_id="t-81")
OTHER = intent("warehouse.table.drop", "table/payroll")


async def ask(world: World, declared: dict[str, Any], **changes: Any) -> Answer:
    return await world.exchange(declared, subject_token=await world.assertion(user="alice", task=BOUNDS), **changes)


async def asked(world: World, declared: dict[str, Any]) -> str:
    """The id of the question."""
    return str((await ask(world, declared)).json["interaction_uri"]).rpartition("/")[2]


async def approved_and_other(world: World) -> tuple[InMemoryDocuments, str, str]:
    """`guards`, the id of a question that alice said yes to, and of another that she never saw."""
    first, second = await asked(world, DROP), await asked(world, OTHER)
    await world.decide(first, approved=True)
    return world.cloud.documents["guards"], first, second


async def path_of(guards: InMemoryDocuments, question: str) -> str:
    (document,) = await guards.find("approval_requests", Condition("id", "==", question))
    return document.path


async def test_a_yes_is_not_found_by_putting_its_question_where_another_is_looked_for(world: World) -> None:
    guards, first, second = await approved_and_other(world)
    stored, place = guards._documents[await path_of(guards, first)], await path_of(guards, second)
    guards._documents[place] = replace(stored, path=place)
    assert (await ask(world, OTHER)).status != 200
    assert (await ask(world, DROP)).status == 200


@pytest.mark.parametrize("completion_mode", [None, "deferred"])
async def test_a_yes_does_not_follow_when_its_question_is_rewritten(world: World, completion_mode: str | None) -> None:
    guards, first, second = await approved_and_other(world)
    deferred = {} if completion_mode is None else {"completion_mode": completion_mode}
    code = (await ask(world, OTHER, **deferred)).json.get("deferral_code")
    path = await path_of(guards, second)
    guards._documents[path] = replace(guards._documents[path], fields=guards._documents[path].fields | {"id": first})
    assert (await ask(world, OTHER)).status == 400
    if code is not None:
        assert (await world.poll(code)).status == 400


async def test_a_yes_does_not_serve_a_deferral_of_somebody_else(world: World) -> None:
    answer = await ask(world, DROP, completion_mode="deferred")
    await world.decide(answer.json["interaction_uri"], approved=True)
    guards, path = world.cloud.documents["guards"], f"deferrals/{digest(answer.json['deferral_code'])}"
    claims = json.loads(guards._documents[path].fields["assertion_claims"])
    bob = claims_of(await world.assertion(user="bob"))["sub"]
    forged = guards._documents[path].fields | {"assertion_claims": json.dumps(claims | {"sub": bob})}
    guards._documents[path] = replace(guards._documents[path], fields=forged)
    assert (await world.poll(answer.json["deferral_code"])).json["reason_code"] == "deferral_code_invalid"
    assert (await ask(world, DROP)).status == 200

"""Writes that are asked for at once travel together, and nobody can tell from the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.ports import AlreadyExists, Conflict, Create, Delete, Replace, Tally, Unavailable
from gcp_emulators.control_client import ControlClient
from gcp_emulators.faults import CallFault


@pytest.fixture
async def store(control: ControlClient, project: str) -> AsyncIterator[FirestoreDocuments]:
    adapter = FirestoreDocuments(project, "guards")
    yield adapter
    await adapter.close()


def commits(control: ControlClient, project: str) -> int:
    return control.counts(project).get("firestore.Commit", 0)


async def test_the_writes_of_one_exchange_are_one_call(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    single_use, limit, budget = await asyncio.gather(
        store.write(Create("single_use/a", {})),
        store.tally(Tally("rate_limits/a", add={"n": 1})),
        store.tally(Tally("task_budgets/a", add={"uses": 1}, at_most={"limit": 5})),
    )
    assert commits(control, project) == 1
    assert len(single_use) == 1
    assert (limit, budget) == ({"n": 1}, {"uses": 1, "limit": 5})


async def test_one_refused_write_takes_no_other_down(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    (version,) = await store.write(Create("things/a", {"n": 1}))
    await store.write(Replace("things/a", {"n": 2}, version))
    answers = await asyncio.gather(
        store.write(Create("things/a", {})),
        store.write(Create("things/b", {})),
        store.tally(Tally("counts/a", add={"n": 1})),
        store.write(Delete("things/none", version)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [AlreadyExists, tuple, dict, Conflict]
    assert answers[2] == {"n": 1}
    assert commits(control, project) == 2 + 1 + 4


async def test_two_conditional_writes_of_one_document_never_meet_in_one_call(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    answers = await asyncio.gather(
        *(store.write(Create("single_use/a", {"by": number})) for number in range(5)), return_exceptions=True
    )
    assert [type(answer) for answer in answers].count(tuple) == 1
    assert commits(control, project) == 5


async def test_tallies_of_one_document_share_a_call_and_see_distinct_sums(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    sums = await asyncio.gather(*(store.tally(Tally("counts/a", add={"n": 1})) for _ in range(10)))
    assert sorted(counted["n"] for counted in sums) == list(range(1, 11))
    assert commits(control, project) == 1


async def test_a_call_carries_at_most_a_hundred_writes(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    await asyncio.gather(*(store.write(Create(f"things/{number}", {})) for number in range(250)))
    assert commits(control, project) == 3


async def test_when_a_call_is_lost_all_its_writes_are_unknown_and_none_is_repeated(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    control.add_fault(
        CallFault.model_validate(
            {"service": "firestore", "method": "Commit", "status": "UNAVAILABLE", "when": "after", "times": 1}
        )
    )
    answers = await asyncio.gather(
        store.write(Create("things/a", {})), store.tally(Tally("counts/a", add={"n": 1})), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    assert commits(control, project) == 1
    assert await store.tally(Tally("counts/a", add={"n": 1})) == {"n": 2}


async def test_the_write_of_a_caller_that_went_away_disturbs_nobody(store: FirestoreDocuments) -> None:
    leaving = asyncio.create_task(store.write(Create("things/a", {})))
    staying = asyncio.create_task(store.write(Create("things/b", {})))
    await asyncio.sleep(0)
    leaving.cancel()
    assert len(await staying) == 1
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await store.read("things/a") is not None

"""The queries of the stores, over Firestore's API: what they ask is answered, page by page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant
from cab.stores.approvals import ApprovalRequest, ApprovalRequests, Binding
from cab.stores.grants import OF_A_SHARD, Grants, Spread

pytestmark = pytest.mark.usefixtures("emulators")
NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


async def test_due_grants_are_found_by_shard_the_longest_waiting_first(project: str) -> None:
    documents = FirestoreDocuments(project, "grants")
    store = Grants(documents)
    names = [f"A{number:04}" for number in range(OF_A_SHARD + 2)] + ["_one", "x-later"]
    for number, name in enumerate(names):
        due_at = NOON - timedelta(seconds=number) if name != "x-later" else NOON + timedelta(seconds=1)
        await store.create(
            Grant(
                grant_id=name,
                tenant="acme",
                subject="s",
                connection="crm",
                provider="p",
                provider_class=RotationClass.STRICT,
                connected_at=NOON,
                due_at=due_at,
            )
        )
    together = [stored.grant.grant_id for stored in await store.due(NOON, limit=1_000)]
    assert await store.spread() == Spread(written=0, left=0)
    pages = [page async for page in store.due_pages(NOON, size=500, limit=1_000)]
    assert [len(page) for page in pages] == [OF_A_SHARD + 1, 2]
    by_shard = [stored.grant.grant_id for page in pages for stored in page]
    assert sorted(by_shard) == sorted(together)
    assert by_shard[:3] == ["_one", *together[1:3]]
    await documents.close()


async def test_a_question_is_found_by_its_id_and_spent_once(project: str) -> None:
    documents = FirestoreDocuments(project, "guards")
    requests = ApprovalRequests(documents)
    request = ApprovalRequest(
        id="r" * 22,
        binding=Binding("acme", "alice", "bot", "h", "p", None),
        connection="crm",
        detail={"b": 1},
        reason=None,
        prompts=(),
        txn="t",
        requested_at=NOON,
        waits_until=NOON + timedelta(minutes=10),
    )
    await requests.open(request, instead_of=None)
    found = await requests.find(request.id)
    assert found is not None
    assert found == await requests.current(request.binding)
    assert await requests.spend(found) is True
    assert await requests.spend(found) is False
    assert await requests.find(request.id) is None
    await documents.close()

"""What Terraform is told of each collection's fields: which ends by itself, and which have an index.

An index of a field is two more entries of each write. One of a time that only grows bounds what the whole collection can be written:
about 500 a second.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.functions.test_call_tool import TABLE
from tests.functions.test_waits import LIST, decide, redeem_what_was_deferred
from tests.support.calling import call, call_token, platform_at
from tests.support.web import json_answer
from tests.support.world import WAREHOUSE, World

import cab
from cab.adapters.document_indexes import listed_indexes, needed_index, own_indexes
from cab.adapters.document_rules import EXPIRY_FIELD, order_field
from cab.domain.grants import GrantStatus
from cab.ports import Condition, Document
from cab.stores import sessions
from cab.stores.approvals import ApprovalRequests
from cab.stores.grants import ARE_SPREAD, Grants
from cab.stores.issued_tokens import IssuedTokens
from cab.use_cases.audit.unsent import UnsentEvents
from cab_dev.fakes.documents import InMemoryDocuments
from cab_ops.forget_person import ForgetPerson

FIELDS: list[dict[str, Any]] = json.loads(files("cab").joinpath("data", "firestore_fields.json").read_text("utf-8"))
PLACES = {(entry["database"], entry["collection"]) for entry in FIELDS}
ENDING = {(entry["database"], entry["collection"]) for entry in FIELDS if entry["expires"]}
NO_COLLECTIONS = {"cab", "projects"}
OF_THE_LAST_RELEASE = {"approval_bindings"}
NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


class Asked(InMemoryDocuments):
    """Remembers by which fields it was asked that need an index of their own for that."""

    def __init__(self) -> None:
        super().__init__()
        self.by: set[tuple[str, str]] = set()

    async def find(self, collection: str, *conditions: Condition, **how: Any) -> list[Document]:
        rules = {"order_by": None, "descending": False, "limit": 100, "indexes": listed_indexes()} | how
        rules.pop("after", None)
        ordered_by = order_field(collection, conditions, rules.pop("order_by"), **rules)
        if needed_index(collection, conditions, ordered_by, descending=rules["descending"]) is None:
            fields = [condition.field for condition in conditions] + ([ordered_by] if ordered_by else [])
            self.by |= {(collection, field) for field in fields}
        return await super().find(collection, *conditions, **how)


async def test_what_queries_ask_by_has_an_index_of_its_own_and_nothing_else() -> None:
    """Every query there is; what the rest of the tests ask by without an index is refused to them."""
    documents, now = Asked(), NOON
    grants = Grants(documents)
    await grants.due(now, limit=1)
    await grants.uncounted("crm", "acme", GrantStatus.ACTIVE, limit=1)
    await grants.matching(equal={"tenant": "acme", "subject": "s", "connection": "crm", "status": "active"})
    await ApprovalRequests(documents).find("a" * 43)
    await ApprovalRequests(documents).waiting_for("acme", "s", agents=["assistant"], now=now)
    await IssuedTokens(documents).find("sha256", now=now)
    await IssuedTokens(documents).of_user("acme", "s", limit=1)
    await UnsentEvents(documents, World().clock).oldest()
    await ForgetPerson(guards=documents, approvals=documents, grants=documents)("acme", "s")
    assert documents.by == {(collection, field) for collection, fields in own_indexes().items() for field in fields}


def test_of_times_only_those_have_an_index_that_are_asked_for_alone() -> None:
    times = {
        (name, field)
        for name, fields in own_indexes().items()
        for field in fields
        if re.search("_(at|until|since)$", field)
    }
    assert times == {("grants", "due_at"), ("grants", "last_used_at"), ("events", "kept_at")}


async def calls_and_reports(world: World) -> Any:
    answer = await world.exchange(LIST, subject_token=await world.assertion(user="alice"))
    token = answer.json["access_token"]
    said = {"token_sha256": hashlib.sha256(token.encode()).hexdigest(), "outcome": "done"}
    body = json.dumps(said | world.credentials("assistant")).encode()
    assert (await world.request("POST", "/oauth2/outcomes", body=body)).status == 204
    platform_at(world, WAREHOUSE, json_answer({}))
    assert (await call(world, await call_token(world), "warehouse_table_write", TABLE, call_id="c-1")).status == 200
    return world.revoke(token)


async def test_whatever_has_an_end_is_deleted_then_and_no_collection_is_left_out() -> None:
    world = World()
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read", "offline")
    for live in (decide, redeem_what_was_deferred, calls_and_reports):
        await (await live(world))
    written = {
        (database, path.partition("/")[0]): document.fields
        for database, store in world.cloud.documents.items()
        for path, document in store._documents.items()
    }
    assert set(written) <= PLACES
    assert {place for place, fields in written.items() if EXPIRY_FIELD in fields} <= ENDING

    sources = [path.read_text("utf-8") for path in Path(cab.__file__).parent.rglob("*.py")]
    named = {name for text in sources for name in re.findall(r'f"([a-z_]+)/\{', text)}
    named |= {ARE_SPREAD.partition("/")[0], *sessions._COLLECTIONS.values()}
    known = {name for _, name in written} | named | OF_THE_LAST_RELEASE
    assert known - {name for _, name in PLACES} == NO_COLLECTIONS
    assert {name for _, name in PLACES} <= known


async def test_a_query_by_a_field_without_an_index_is_refused_here_as_there() -> None:
    documents = InMemoryDocuments()
    for conditions in (
        [Condition("issued_at", ">", 1)],
        [Condition("sha256", "==", "x"), Condition("issued_at", "==", 1)],
    ):
        with pytest.raises(ValueError, match=r"has no index of .*issued_at"):
            await documents.find("issued_tokens", *conditions)
    with pytest.raises(ValueError, match="in ascending order"):
        await documents.find("events", order_by="kept_at", descending=True)
    with pytest.raises(ValueError, match="in ascending order"):
        await documents.find("grants", Condition("status", "array_contains", "active"))
    await documents.find("issued_tokens", Condition("sha256", "==", "x"), order_by="issued_at", descending=True)

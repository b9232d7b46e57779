"""What Terraform is told of each collection's fields: which ends by itself, and which times must not have an index.

A field that only grows, in an index of its own, bounds what the whole collection can be written: about 500 a second.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from tests.functions.test_call_tool import TABLE
from tests.functions.test_waits import LIST, decide, redeem_what_was_deferred
from tests.support.calling import call, call_token, platform_at
from tests.support.web import json_answer
from tests.support.world import WAREHOUSE, World

import cab
from cab.adapters.document_indexes import unindexed_fields
from cab.adapters.document_rules import EXPIRY_FIELD
from cab.domain.grants import Grant
from cab.ports import Condition
from cab.stores.approvals import ApprovalDecision, ApprovalRequest
from cab.stores.deferrals import Deferral
from cab.stores.issued_tokens import IssuedToken
from cab.stores.sessions import AccountQuestion, ConnectState, LoginState, Session
from cab_dev.fakes.documents import InMemoryDocuments

FIELDS: list[dict[str, Any]] = json.loads(files("cab").joinpath("data", "firestore_fields.json").read_text("utf-8"))
ENDING = {(entry["database"], entry["collection"]) for entry in FIELDS if entry["expires"]}
STORED = {
    "approval_requests": ApprovalRequest,
    "decisions": ApprovalDecision,
    "deferrals": Deferral,
    "issued_tokens": IssuedToken,
    "grants": Grant,
    "sessions": Session,
    "login_states": LoginState,
    "connect_states": ConnectState,
    "account_questions": AccountQuestion,
}
ASKED_FOR = {
    ("grants", "due_at"),
    ("grants", "last_used_at"),
}  # by queries; the latter is a day, and asked for where unset
WITHOUT_HARM = {
    "departures",
    "events",
    "payloads",
}  # seldom written (accounts closed, the audit away), or without a time
NO_COLLECTIONS = {"cab", "projects"}
OF_THE_LAST_RELEASE = {"approval_bindings"}


def times_of(kind: type) -> set[str]:
    """Members that are times, or hold some."""
    found = set()
    for name, hint in get_type_hints(kind).items():
        kinds = [it for it in (get_args(hint) or (hint,)) if isinstance(it, type)]
        if any(it is datetime or (it.__module__.startswith("cab.stores") and times_of(it)) for it in kinds):
            found.add(name)
    return found


@pytest.mark.parametrize("collection", STORED)
def test_no_time_that_only_grows_has_an_index_of_its_own(collection: str) -> None:
    times = {(collection, name) for name in times_of(STORED[collection])}
    assert times - ASKED_FOR <= unindexed_fields()


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
    assert {place for place, fields in written.items() if EXPIRY_FIELD in fields} <= ENDING
    plain = {(name, field) for (_, name), fields in written.items() if name not in STORED for field in fields}
    times = {(name, field) for name, field in plain if field.endswith("_at") or field == "at"}
    assert times - {(name, EXPIRY_FIELD) for _, name in ENDING} <= unindexed_fields()

    sources = [path.read_text("utf-8") for path in Path(cab.__file__).parent.rglob("*.py")]
    named = {name for text in sources for name in re.findall(r'f"([a-z_]+)/\{', text)}
    known = {name for _, name in written} | set(STORED)
    assert named - known == WITHOUT_HARM | NO_COLLECTIONS
    assert {entry["collection"] for entry in FIELDS} <= known | OF_THE_LAST_RELEASE


async def test_a_query_by_a_field_without_an_index_is_refused_here_as_there() -> None:
    documents = InMemoryDocuments()
    for conditions in (
        [Condition("issued_at", ">", 1)],
        [Condition("sha256", "==", "x"), Condition("issued_at", "==", 1)],
    ):
        with pytest.raises(ValueError, match="has no index of issued_at"):
            await documents.find("issued_tokens", *conditions)
    await documents.find("issued_tokens", Condition("sha256", "==", "x"), order_by="issued_at", descending=True)

"""From decision to SQL on the running stack: at-least-once delivery becomes one row, poison never blocks, forgeries never land."""

from __future__ import annotations

import base64
import json
import secrets
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from tests.e2e.audit_rows import TODAY, eventually, publish, pull, query
from tests.e2e.caller import Caller
from tests.running_stack import Stack

from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.adapters.system import SystemRandomness
from cab.domain.audit import AuditEvent, EventType, Outcome, SealedEvent, Service, read
from cab.use_cases.audit.packing import pack
from cab_dev.local_cloud import AUDIT_SUBSCRIPTION

pytestmark = pytest.mark.stack
COUNT = f"select count(*) as n from cab_audit.{{table}} where {TODAY} and event_id = @id"


def an_event() -> AuditEvent:
    return AuditEvent(
        event_id=SystemRandomness().event_id(),
        event_type=EventType.EXCHANGE_DECIDED,
        occurred_at=datetime.now(UTC),
        tenant="acme",
        outcome=Outcome.REFUSED,
    )


def in_a_chain(events: list[AuditEvent]) -> list[SealedEvent]:
    chain = AuditChain(secrets.token_hex(8), Service(function="test", revision="test"))
    return [chain.seal(event) for event in events]


def sealed(event: AuditEvent) -> bytes:
    return in_a_chain([event])[0].data


def rows_of(stack: Stack, event: AuditEvent, table: str = "events") -> int:
    return int(query(stack, COUNT.format(table=table), id=event.event_id)[0]["n"])


def rows_of_chain(stack: Stack, event: SealedEvent) -> list[int]:
    sql = f"select chain.seq as seq from cab_audit.events where {TODAY} and chain.id = @id order by seq"
    return [row["seq"] for row in query(stack, sql, id=event.chain_id)]


def test_what_a_resource_did_of_a_token_is_on_record_by_its_own_word(stack: Stack) -> None:
    """Nobody here reports: the warehouse does, beside its answer. A query that the token was not made for, too."""
    caller = Caller(stack)
    issued = caller.exchange(caller.assertion("alice"), "warehouse.query.run", "query/acme_history")
    headers = {"Authorization": f"Bearer {issued.body['access_token']}"}
    api = stack.file.connections["warehouse"].api_base
    for name, status in (("acme_history", 200), ("revenue_by_account", 403)):
        assert requests.post(f"{api}/query", json={"query": name}, headers=headers, timeout=10).status_code == status
    sql = f"select * from cab_audit.events where {TODAY} and txn = @txn and observed_by = 'resource'"

    def both() -> list[dict[str, Any]] | None:
        found = query(stack, sql, txn=issued.body["txn"])
        return found if len(found) == 2 else None

    rows = eventually(both)
    assert {(row["call"]["outcome"], row["call"]["upstream_status"]) for row in rows} == {
        ("done", 200),
        ("rejected", 403),
    }
    assert {(row["actor"]["agent_id"], row["actor"]["client_id"]) for row in rows} == {("sales-assistant", "warehouse")}


def test_a_decision_is_queryable_with_who_through_whom_what_and_why(stack: Stack) -> None:
    caller = Caller(stack)
    answer = caller.exchange(caller.assertion("alice"), "crm.opportunity.list", "opportunity/*", account="acme")
    assert answer.status == 200
    sql = f"select * from cab_audit.events where {TODAY} and txn = @txn and event_type = 'exchange.decided'"
    (row,) = eventually(lambda: query(stack, sql, txn=answer.body["txn"]))
    assert (row["tenant"], row["connection"], row["action"]) == ("acme", "crm", "crm.opportunity.list")
    assert row["actor"]["agent_id"] == "sales-assistant"
    assert row["subject"]["groups"] == ["sales"]
    assert (row["decision"], row["outcome"], row["reason_code"]) == ("permit", "issued", None)
    assert row["intent"]["identifier"] == "opportunity/*"
    assert json.loads(row["intent"]["parameters"]) == {"account": "acme"}
    assert row["scopes"]["granted"] == ["opportunity.read"]
    assert row["token"]["kind"] == "downstream"
    assert row["grant"]["id"]
    assert row["policy"]["determining_rules"]


def test_a_message_delivered_five_times_is_one_row(stack: Stack) -> None:
    event = an_event()
    publish(stack, *[sealed(event)] * 5)
    eventually(lambda: rows_of(stack, event))
    marker = an_event()
    publish(stack, sealed(marker))
    eventually(lambda: rows_of(stack, marker))
    assert rows_of(stack, event) == 1


def test_a_message_of_five_events_delivered_three_times_is_five_rows(stack: Stack) -> None:
    events = in_a_chain([an_event() for _ in range(5)])
    publish(stack, *[pack(events)] * 3)
    eventually(lambda: rows_of_chain(stack, events[0]))
    marker = an_event()
    publish(stack, sealed(marker))
    eventually(lambda: rows_of(stack, marker))
    assert rows_of_chain(stack, events[0]) == [1, 2, 3, 4, 5]


def test_poison_amid_the_events_of_a_message_takes_none_of_them_along(stack: Stack) -> None:
    """Also when the message comes again."""
    events = in_a_chain([an_event() for _ in range(5)])
    changed = json.loads(events[2].data)
    changed["outcome"] = "issued"
    poison = json.dumps(changed).encode()
    lines = [*(event.data for event in events[:2]), poison, *(event.data for event in events[3:])]
    publish(stack, *[zlib.compress(b"\n".join(lines))] * 2)
    eventually(lambda: rows_of_chain(stack, events[0]))
    kept: list[bytes] = []

    def is_kept() -> bool:
        kept.extend(pull(stack, "cab-audit-quarantine-keep"))
        return poison in kept

    eventually(is_kept)
    marker = an_event()
    publish(stack, sealed(marker))
    eventually(lambda: rows_of(stack, marker))
    assert rows_of_chain(stack, events[0]) == [1, 2, 4, 5]


def test_poison_is_kept_aside_and_the_queue_moves_on(stack: Stack) -> None:
    good = an_event()
    changed = json.loads(sealed(an_event()))
    changed["outcome"] = "issued"
    poison = [b"\xff\xfe not json", b"{}", json.dumps(changed).encode()]
    publish(stack, *poison, sealed(good))
    eventually(lambda: rows_of(stack, good))
    kept: set[bytes] = set()

    def all_kept() -> bool:
        kept.update(pull(stack, "cab-audit-quarantine-keep"))
        return set(poison) <= kept

    eventually(all_kept)
    assert rows_of(stack, read(changed)) == 0


def test_nobody_but_the_push_account_can_add_a_row(stack: Stack) -> None:
    file = stack.file
    event = an_event()
    message = {
        "data": base64.b64encode(sealed(event)).decode(),
        "messageId": "1",
        "publishTime": "2026-11-21T00:00:00Z",
    }
    push = {"message": message, "subscription": f"projects/{file.project_id}/subscriptions/{AUDIT_SUBSCRIPTION}"}
    direct, identity = file.services["ingest_audit"].url, file.services["google_identity"].url
    ingest = file.services["ingest_audit"].called_at
    domain = f"@{file.project_id}.iam.gserviceaccount.com"

    def token(email: str, audience: str | None) -> str:
        return requests.get(f"{identity}/token", params={"email": email + domain, "audience": audience}, timeout=5).text

    forged = [
        None,
        "Bearer garbage",
        f"Bearer {token('exchange-token', ingest)}",
        f"Bearer {token('pubsub-push', 'http://127.0.0.1:1')}",
        f"Basic {token('pubsub-push', ingest)}",
    ]
    for authorization in forged:
        headers = {} if authorization is None else {"Authorization": authorization}
        assert requests.post(f"{direct}/", json=push, headers=headers, timeout=10).status_code == 401
        # At its own URL, as Cloud Run: unknown callers find nothing, and known ones may not all call it.
        assert requests.post(f"{ingest}/", json=push, headers=headers, timeout=10).status_code in (403, 404)
    right = {"Authorization": f"Bearer {token('pubsub-push', ingest)}"}
    foreign = push | {"subscription": "projects/other/subscriptions/other"}
    assert requests.post(f"{ingest}/", json=foreign, headers=right, timeout=10).status_code == 400
    assert rows_of(stack, event) == 0
    assert requests.post(f"{ingest}/", json=push, headers=right, timeout=20).status_code == 204
    eventually(lambda: rows_of(stack, event))

"""No token without its event, no flood of events from strangers, nothing secret in any of them (docs of audit; security.md A1, A4)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.jose import ABSENT
from tests.support.world import DROP, WRITE, World, gather, intent, task

from cab.domain.audit import event_hash
from cab.encoding.records import as_json


def from_network(address: str) -> list[tuple[str, str]]:
    """Headers as the load balancer leaves them for a caller at `address`: it appends the caller and itself."""
    return [("X-Forwarded-For", f"{address}, 203.0.113.200")]


async def stranger(world: World, address: str) -> None:
    answer = await world.post("/oauth2/token", b"grant_type=x", headers=from_network(address))
    assert answer.status in (400, 401)


ENDINGS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "issued": ({}, None, "issued"),
    "outside the task": ({"declared": WRITE}, "intent_outside_task", "refused"),
    "policy": ({"declared": intent("warehouse.salary.read", "salary/1")}, "policy_denied", "refused"),
    "no grant": ({"declared": intent("crm.deal.list", "deal/*")}, "grant_missing", "refused"),
    "bad assertion": ({"subject_token": "x"}, "subject_token_invalid", "refused"),
    "bad target": ({"resource": "https://evil.test"}, "target_unknown", "refused"),
    "bad scope": ({"scope": "x"}, "scope_not_grantable", "refused"),
    "no intent": ({"authorization_details": ABSENT}, "intent_missing", "refused"),
    "no proof": ({"client_assertion": "x"}, "client_authentication_failed", "refused"),
    "no grant type": ({"grant_type": ABSENT}, "parameter_missing", "refused"),
}


@pytest.mark.parametrize(("changes", "reason", "outcome"), ENDINGS.values(), ids=ENDINGS.keys())
async def test_every_end_leaves_exactly_one_event(
    world: World, changes: dict[str, Any], reason: str | None, outcome: str
) -> None:
    answer = await world.exchange(changes.pop("declared", None) if "declared" in changes else None, **changes)
    (event,) = world.events()
    assert (event.reason_code, event.outcome, event.txn) == (reason, outcome, answer.txn)
    assert event.service is not None
    assert (event.service.function, event.service.revision) == ("exchange_token", "test-00001")


async def test_requests_that_never_were_forms_leave_events_too(world: World) -> None:
    await world.request("GET", "/oauth2/token")
    await world.request("POST", "/oauth2/token", headers=[("Content-Type", "text/plain")])
    await world.post("/oauth2/token", b"x" * 70_000)
    reasons = [event.reason_code for event in world.events()]
    assert reasons == ["method_not_allowed", "unsupported_media_type", "body_too_large"]


# --- chain ---


async def test_events_of_one_instance_form_a_chain_in_which_nothing_can_be_changed_unseen(world: World) -> None:
    for declared in (intent(), WRITE, DROP):
        await world.exchange(declared, subject_token=await world.assertion(task=task("*")))
    messages = [json.loads(message.data) for message in world.cloud.audit_logs["exchange_token"].messages]
    assert [message["chain"]["seq"] for message in messages] == [1, 2, 3]
    assert [message["chain"]["prev_hash"] for message in messages] == [
        "",
        *(message["chain"]["hash"] for message in messages[:-1]),
    ]
    for message in messages:
        assert message["chain"]["hash"] == event_hash(message)
        assert event_hash(message | {"tenant": "globex"}) != message["chain"]["hash"]


# --- strangers ---


async def test_strangers_of_one_network_leave_five_events_a_minute_and_then_one_count(world: World) -> None:
    for _ in range(25):
        await stranger(world, "198.51.100.7")
    assert len(world.events()) == 5
    world.advance(60)
    await stranger(world, "198.51.100.8")
    counted, refused = world.events()[5:]
    assert (counted.event_type, counted.count, counted.outcome) == ("requests.refused.counted", 20, "refused")
    assert (counted.tenant, counted.subject, counted.actor) == (None, None, None)
    assert counted.caller_ip_prefix == "198.51.100.0/24"
    assert refused.reason_code == "grant_type_unknown"


async def test_the_count_does_not_wait_for_the_flooder_to_return(world: World) -> None:
    """Any later refusal takes along what has been counted: a flooder that stays away is still on record."""
    for _ in range(12):
        await stranger(world, "198.51.100.7")
    world.advance(60)
    await stranger(world, "192.0.2.99")
    counted = [event for event in world.events() if event.event_type == "requests.refused.counted"]
    assert [(event.count, event.caller_ip_prefix) for event in counted] == [(7, "198.51.100.0/24")]


async def test_networks_are_counted_apart_and_invented_addresses_make_no_difference(world: World) -> None:
    for number in range(10):
        headers = [("X-Forwarded-For", f"10.0.{number}.1, 198.51.100.7, 203.0.113.200")]
        await world.post("/oauth2/token", b"grant_type=x", headers=headers)
    assert len(world.events()) == 5
    for _ in range(10):
        await stranger(world, "198.51.101.7")
    assert len(world.events()) == 10


@pytest.mark.parametrize(
    ("forwarded", "prefix"),
    [
        ("198.51.100.7, 203.0.113.200", "198.51.100.0/24"),
        ("2001:db8:1:2:3::4, 203.0.113.200", "2001:db8:1::/48"),
        ("198.51.100.7", "198.51.100.0/24"),
        ("x, 198.51.100.7, 203.0.113.200", "198.51.100.0/24"),
        ("not an address, 203.0.113.200", None),
        ("", "192.0.2.0/24"),
        (" , ", "192.0.2.0/24"),
    ],
)
async def test_an_event_names_the_callers_network_never_the_address(
    world: World, forwarded: str, prefix: str | None
) -> None:
    await world.post("/oauth2/token", b"grant_type=x", headers=[("X-Forwarded-For", forwarded)])
    (event,) = world.events()
    assert event.caller_ip_prefix == prefix
    assert "198.51.100.7" not in str(as_json(event))


async def test_an_authenticated_clients_refusals_are_never_dropped(world: World) -> None:
    answers = await gather(*(world.exchange(subject_token="x") for _ in range(30)))
    assert {answer.status for answer in answers} == {400}
    assert len(world.events()) == 30


async def test_the_trace_of_the_platform_is_kept_when_it_is_one(world: World) -> None:
    trace = "0123456789abcdef0123456789abcdef"
    for value in (f"{trace}/123;o=1", trace, "x" * 32, f"{trace}x", "'; DROP TABLE"):
        await world.exchange(headers=[("X-Cloud-Trace-Context", value)])
    assert [event.trace_id for event in world.events()] == [trace, trace, None, None, None]


# --- the log is away ---


@pytest.mark.parametrize("loses_answers", [False, True])
async def test_no_token_leaves_whose_event_was_not_acknowledged(world: World, loses_answers: bool) -> None:
    await world.exchange()
    log = world.cloud.audit_logs["exchange_token"]
    log.is_down, log.loses_answers = not loses_answers, loses_answers
    for answer in await gather(*(world.exchange() for _ in range(20))):
        assert answer.refusal == (503, "temporarily_unavailable", "audit_unavailable")
        assert answer.header("retry-after")
    log.is_down = log.loses_answers = False
    assert (await world.exchange()).status == 200
    ids = [event.event_id for event in world.events()]
    # what was withheld is on record too, each with the event that takes it back; a lost acknowledgement repeats, never loses
    assert len(set(ids)) == 22 + 20


@pytest.mark.parametrize("loses_answers", [False, True])
@pytest.mark.parametrize("function", ["exchange_token", "mint_assertion"])
async def test_a_token_that_was_withheld_does_not_stand_as_issued(
    world: World, function: str, loses_answers: bool
) -> None:
    """Before, the queued event went out later as it was, and the table said `issued` for a token that nobody got."""
    call = world.exchange if function == "exchange_token" else world.mint
    await call()
    log = world.cloud.audit_logs[function]
    log.is_down, log.loses_answers = not loses_answers, loses_answers
    withheld = await call()
    log.is_down = log.loses_answers = False
    given = await call()
    by_id = {event.event_id: event for event in world.events(function)}
    (taken_back,) = [event for event in by_id.values() if event.event_type == "token.withheld"]
    assert (taken_back.outcome, taken_back.reason_code, taken_back.token) == ("refused", "audit_unavailable", None)
    assert taken_back.corrects is not None
    original = by_id[taken_back.corrects]
    assert (original.outcome, original.txn, original.occurred_at) == ("issued", taken_back.txn, taken_back.occurred_at)
    assert (withheld.status, given.status) == (503, 200)


async def test_a_token_whose_hand_out_cannot_be_recorded_does_not_leave(world: World) -> None:
    await world.connect("alice", "crm", "deal.read", "contact.read", "offline")
    assertion = await world.assertion(user="alice")
    listing = intent("crm.deal.list", "deal/*")
    assert (await world.exchange(listing, subject_token=assertion)).status == 200
    # the client assertion's mark is the first write, the hand-out's record the second
    world.break_documents("guards", "write", skip=1)
    answer = await world.exchange(listing, subject_token=assertion)
    assert answer.refusal == (503, "temporarily_unavailable", "store_unavailable")
    *_, issued, taken_back = world.events()
    assert (taken_back.event_type, taken_back.corrects) == ("token.withheld", issued.event_id)
    assert taken_back.reason_code == "store_unavailable"


async def test_event_ids_are_version_seven_uuids_and_unique(world: World) -> None:
    import uuid

    await gather(*(world.exchange() for _ in range(20)))
    ids = [event.event_id for event in world.events()]
    assert len(set(ids)) == 20
    assert {uuid.UUID(text).version for text in ids} == {7}

"""Audit ingest: only Pub/Sub's own push of our subscription, only untouched events of ours; poison is kept aside (security.md A6)."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from typing import Any

import pytest
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, ec_key, present, rsa_key
from tests.support.world import ACCOUNTS, GOOGLE, INGEST_AUDIT, REFRESH_GRANTS, START, World

from cab.domain.audit import event_hash
from cab.encoding.canonical_json import canonical

SUBSCRIPTION = "projects/demo-cab/subscriptions/cab-audit-ingest"
PUSHER = f"pubsub-push@{ACCOUNTS}"


async def real_event(world: World) -> bytes:
    """An event as exchange_token publishes it."""
    await world.exchange()
    return world.cloud.audit_logs["exchange_token"].messages[-1].data


def wrapped(data: bytes, **changes: Any) -> bytes:
    message = {"data": b64encode(data).decode(), "messageId": "m-1", "publishTime": "2026-11-21T12:00:01.123Z"}
    return json.dumps(present({"message": message, "subscription": SUBSCRIPTION} | changes)).encode()


async def push(world: World, body: bytes, *, token: str | None = None, **claims: Any) -> Answer:
    identity = token or world.google_token(**({"audience": INGEST_AUDIT, "email": PUSHER} | claims))
    headers = [("Authorization", f"Bearer {identity}"), ("Content-Type", "application/json")]
    return await world.request("POST", "/", function="ingest_audit", headers=headers, body=body)


async def test_a_pushed_event_becomes_a_row_and_is_acknowledged(world: World) -> None:
    data = await real_event(world)
    answer = await push(world, wrapped(data))
    assert (answer.status, answer.body) == (204, b"")
    (row,) = world.cloud.audit_rows.rows
    event = json.loads(data)
    assert row["event_id"] == event["event_id"]
    assert row["event_type"] == "exchange.decided"
    assert row["tenant"] == "acme"
    assert row["chain"]["hash"] == event["chain"]["hash"]
    assert world.cloud.quarantine.messages == []


async def test_a_push_that_ends_half_way_is_no_error_of_ours_and_comes_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    headers = [("Authorization", f"Bearer {world.google_token(audience=INGEST_AUDIT, email=PUSHER)}")]
    body = wrapped(await real_event(world))[:-7]
    answer = await world.request("POST", "/", function="ingest_audit", headers=headers, body=body, is_cut=True)
    assert answer.status == 400
    assert world.cloud.audit_rows.rows == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


FORGERIES: dict[str, dict[str, Any]] = {
    "no such account": {"email": f"nobody@{ACCOUNTS}"},
    "another service of ours": {"email": f"exchange-token@{ACCOUNTS}"},
    "the account in capitals": {"email": PUSHER.upper()},
    "the account of another project": {"email": "pubsub-push@evil.iam.gserviceaccount.com"},
    "no account": {"email": ABSENT},
    "an unverified account": {"email_verified": False},
    "an account verified by text": {"email_verified": "true"},
    "nothing about verification": {"email_verified": ABSENT},
    "for another function": {"audience": REFRESH_GRANTS},
    "for a path of the function": {"audience": INGEST_AUDIT + "/"},
    "for two audiences": {"aud": [INGEST_AUDIT, "https://other.test"]},
    "of another issuer": {"iss": "https://evil.test"},
    "of the issuer's old name": {"iss": "accounts.google.com"},
    "ended": {"iat": START - 3700, "exp": START - 100},
    "too long a life": {"exp": START + 3601},
    "issued in the future": {"iat": START + 60},
    "by a key of its own": {"key": rsa_key("another")},
    "by an elliptic key under Google's kid": {"key": ec_key("google-key")},
}


@pytest.mark.parametrize("claims", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_push_is_refused_and_nothing_is_written(world: World, claims: dict[str, Any]) -> None:
    answer = await push(world, wrapped(await real_event(world)), **claims)
    assert (answer.status, answer.body) == (401, b"")
    assert world.cloud.audit_rows.rows == []
    assert world.cloud.quarantine.messages == []


async def test_a_refused_push_leaves_one_log_line_that_says_why(world: World, caplog: pytest.LogCaptureFixture) -> None:
    body = wrapped(await real_event(world))
    causes = []
    for claims in ({"email": f"nobody@{ACCOUNTS}"}, {"audience": REFRESH_GRANTS}, {"iss": "https://evil.test"}):
        caplog.clear()
        named: dict[str, Any] = {"audience": INGEST_AUDIT, "email": PUSHER} | claims
        identity = world.google_token(**named)
        await push(world, body, token=identity)
        (line,) = [vars(it)["said"] for it in caplog.records if it.message == "credential refused"]
        assert line["reason_code"] == "client_authentication_failed"
        assert identity not in caplog.text
        causes.append((line["why"], line["unverified"]["issuer"]))
    assert causes == [
        ("the account may not call this", GOOGLE),
        ("aud is not us", GOOGLE),
        ("iss is not the expected issuer", "https://evil.test"),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer x")],
        [("Authorization", "Basic eDp5")],
        [("Authorization", "Bearer a, Bearer b")],
        [("Authorization", "Bearer a"), ("Authorization", "Bearer b")],
    ],
    ids=repr,
)
async def test_a_push_without_a_callers_identity_is_refused(world: World, headers: list[tuple[str, str]]) -> None:
    body = wrapped(await real_event(world))
    answer = await world.request("POST", "/", function="ingest_audit", headers=headers, body=body)
    assert answer.status == 401


NOT_OURS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"x",
    "an array": b"[]",
    "no message": json.dumps({"subscription": SUBSCRIPTION}).encode(),
    "a message that is a list": json.dumps({"message": [], "subscription": SUBSCRIPTION}).encode(),
    "no message id": wrapped(b"x", message={"data": "eA=="}),
    "a numeric message id": wrapped(b"x", message={"data": "eA==", "messageId": 7}),
    "data that is not base64": wrapped(b"x", message={"data": "!", "messageId": "m"}),
    "data with a line end": wrapped(b"x", message={"data": "eA==\n", "messageId": "m"}),
    "data that goes on after its end": wrapped(b"x", message={"data": "eA==eA==", "messageId": "m"}),
    "data that is a list": wrapped(b"x", message={"data": ["eA=="], "messageId": "m"}),
    "another subscription": wrapped(b"x", subscription="projects/demo-cab/subscriptions/other"),
    "no subscription": wrapped(b"x", subscription=ABSENT),
    "too large": wrapped(b"x" * 300_000),
}


@pytest.mark.parametrize("body", NOT_OURS.values(), ids=NOT_OURS.keys())
async def test_what_is_not_a_push_of_our_subscription_is_refused(world: World, body: bytes) -> None:
    assert (await push(world, body)).status == 400
    assert world.cloud.audit_rows.rows == []


def changed(data: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(data) | changes).encode()


def resealed(data: bytes, **changes: Any) -> bytes:
    """Changed, with a hash that fits again: what only someone who may publish could send."""
    document = json.loads(data) | changes
    document["chain"]["hash"] = event_hash(document)
    return json.dumps(document).encode()


async def test_poison_is_kept_aside_with_its_cause_and_acknowledged(world: World) -> None:
    good = await real_event(world)
    event = json.loads(good)
    poison = {
        "not_json": [b"", b"x", b"\xff", b"[]", b"[" * 1000, b'{"a":1,"a":2}', good[:-1]],
        "not_an_event": [
            b"{}",
            changed(good, event_type="nothing.known"),
            changed(good, unknown_member=1),
            changed(good, occurred_at="yesterday"),
            changed(good, outcome="maybe"),
            changed(good, count=2**60),
        ],
        "no_chain": [changed(good, chain=None), changed(good, service=None)],
        "hash_mismatch": [
            changed(good, tenant="globex"),
            changed(good, txn="another"),
            changed(good, chain=event["chain"] | {"hash": "0" * 64}),
            changed(good, chain=event["chain"] | {"seq": 99}),
        ],
        "too_large": [changed(good, txn="x" * 70_000)],
    }
    expected = []
    for cause, messages in poison.items():
        for data in messages:
            assert (await push(world, wrapped(data))).status == 204
            expected.append((cause, data))
    assert [(item.cause, item.data) for item in world.cloud.quarantine.messages] == expected
    assert world.cloud.audit_rows.rows == []


async def test_poison_in_the_form_that_is_published_is_found_out_as_well(world: World) -> None:
    good = await real_event(world)
    event = json.loads(good)
    own = f'"hash":"{event["chain"]["hash"]}",'.encode()
    told = {"intent": event["intent"] | {"reason": f'"chain":{{{own.decode()}'}}
    poison = {
        "not_json": [good.replace(b'"tenant":', b'"tenant":"acme","tenant":'), good.replace(own, own * 2)],
        "not_an_event": [canonical(event | {"event_type": "nothing.known"}), canonical(event | {"a": 1})],
        "no_chain": [canonical(event | {"chain": None}), canonical(event | {"service": None})],
        "hash_mismatch": [
            canonical(event | {"tenant": "globex"}),
            canonical(event | told),
            good.replace(own, b'"hash":"\\"",'),
            good.replace(own, b'"hash":"",'),
        ],
        "unknown_schema_version": [
            canonical(event | {"schema_version": 9}),
            canonical(event | {"schema_version": True}),
        ],
    }
    for cause, messages in poison.items():
        for data in messages:
            world.cloud.quarantine.messages.clear()
            assert (await push(world, wrapped(data))).status == 204
            assert [(item.cause, item.data) for item in world.cloud.quarantine.messages] == [(cause, data)]
    assert world.cloud.audit_rows.rows == []


async def test_an_event_in_another_form_than_it_was_published_in_is_one_as_long_as_it_says_the_same(
    world: World,
) -> None:
    event = json.loads(await real_event(world))
    forms = [json.dumps(event), json.dumps(event, indent=1), json.dumps(event, separators=(",", ":")) + "\r\n "]
    for form in forms:
        assert (await push(world, wrapped(form.encode()))).status == 204
    rows = world.cloud.audit_rows.rows
    assert [row["event_json"] for row in rows] == forms
    assert [{name: row[name] for name in event} for row in rows] == [event] * 3


async def test_an_event_of_a_newer_revision_is_not_lost(world: World) -> None:
    """A member this revision does not know makes no row, and stays in quarantine to be replayed after the update."""
    data = resealed(await real_event(world), new_member="x")
    await push(world, wrapped(data))
    assert [(item.cause, item.data) for item in world.cloud.quarantine.messages] == [("not_an_event", data)]


async def test_what_an_ingest_before_the_upgrade_kept_aside_becomes_a_row_when_it_comes_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = await real_event(world)
    with monkeypatch.context() as before:
        before.setattr("cab.use_cases.audit.ingest.KNOWN_SCHEMA_VERSIONS", frozenset({1}))
        assert (await push(world, wrapped(data))).status == 204
    kept = world.cloud.quarantine.messages
    assert [(item.cause, item.data) for item in kept] == [("unknown_schema_version", data)]
    assert world.cloud.audit_rows.rows == []

    assert (await push(world, wrapped(kept[0].data))).status == 204
    assert [row["event_json"] for row in world.cloud.audit_rows.rows] == [data.decode()]


async def test_a_redelivered_event_is_written_again_under_the_same_id(world: World) -> None:
    body = wrapped(await real_event(world))
    for _ in range(5):
        assert (await push(world, body)).status == 204
    assert len({row["event_id"] for row in world.cloud.audit_rows.rows}) == 1


async def test_while_the_table_is_away_nothing_is_acknowledged(world: World) -> None:
    body = wrapped(await real_event(world))
    await push(world, wrapped(b"x"))
    world.cloud.audit_rows.is_down = True
    assert (await push(world, body)).status == 503
    world.cloud.audit_rows.is_down = False
    assert (await push(world, body)).status == 204
    assert len(world.cloud.audit_rows.rows) == 1


async def test_poison_that_cannot_be_kept_aside_is_not_acknowledged(world: World) -> None:
    await push(world, wrapped(b"x"))
    world.cloud.quarantine.is_down = True
    assert (await push(world, wrapped(b"x"))).status == 503


async def test_while_googles_keys_are_away_a_new_instance_asks_for_redelivery(world: World) -> None:
    world.web.down.add("https://www.googleapis.com")
    assert (await push(world, wrapped(b"x"))).status == 503
    assert GOOGLE not in str(world.cloud.audit_rows.rows)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_is_answered(world: World, method: str) -> None:
    answer = await world.request(method, "/", function="ingest_audit")
    assert (answer.status, answer.header("allow")) == (405, "POST")


async def test_an_event_of_an_unknown_schema_version_is_kept_aside_and_those_before_are_taken(world: World) -> None:
    document = json.loads(await real_event(world))
    for version in (1, 2, 3, 4, 5, "2", None):
        changed = document | {"schema_version": version}
        changed["chain"] = document["chain"] | {"hash": event_hash(changed)}
        assert (await push(world, wrapped(json.dumps(changed).encode()))).status == 204
    assert [row["schema_version"] for row in world.cloud.audit_rows.rows] == [1, 2, 3, 4]
    assert [message.cause for message in world.cloud.quarantine.messages] == ["unknown_schema_version"] * 3


async def test_token_like_text_of_an_older_function_stops_at_ingest(world: World) -> None:
    token = "ghp_" + "a1B2" * 9
    document = json.loads(await real_event(world))
    document["intent"]["reason"] = f"with {token}"
    document["chain"]["hash"] = event_hash(document)
    for form in (json.dumps(document).encode(), canonical(document)):
        assert (await push(world, wrapped(form))).status == 204
    for row in world.cloud.audit_rows.rows:
        assert token not in json.dumps(row)
        assert row["intent"]["reason"].startswith("with [token sha-256:")
        assert json.loads(row["event_json"]) == {name: row[name] for name in document}
        assert row["occurred_at"] == document["occurred_at"]
    assert len(world.cloud.audit_rows.rows) == 2


# --- several events in one message ---


async def real_events(world: World, number: int) -> list[bytes]:
    for _ in range(number):
        await world.exchange()
    return [sealed.data for sealed in world.cloud.audit_logs["exchange_token"].messages[-number:]]


async def test_every_event_of_a_message_becomes_a_row_by_one_insert(world: World) -> None:
    events = await real_events(world, 5)
    assert (await push(world, wrapped(zlib.compress(b"\n".join(events))))).status == 204
    assert [row["event_json"].encode() for row in world.cloud.audit_rows.rows] == events
    assert world.cloud.audit_rows.calls == 1
    assert world.cloud.quarantine.messages == []


async def test_poison_does_not_take_its_neighbours_along(world: World) -> None:
    first, second, third, fourth = await real_events(world, 4)
    edited = second.replace(b'"acme"', b'"evil"', 1)
    assert edited != second
    poison = [edited, b'{"no": "event"}', b'{"cut": "off', b""]
    message = b"\n".join([first, poison[0], third, *poison[1:], fourth])
    assert (await push(world, wrapped(zlib.compress(message)))).status == 204
    assert [row["event_json"].encode() for row in world.cloud.audit_rows.rows] == [first, third, fourth]
    assert [aside.data for aside in world.cloud.quarantine.messages] == poison
    causes = [aside.cause for aside in world.cloud.quarantine.messages]
    assert causes == ["hash_mismatch", "not_an_event", "not_json", "not_json"]


async def test_a_message_that_could_not_be_kept_aside_comes_again_whole(world: World) -> None:
    first, second = await real_events(world, 2)
    message = wrapped(zlib.compress(b"\n".join([first, b'{"no": "event"}', second])))
    world.cloud.quarantine.is_down = True
    assert (await push(world, message)).status == 503
    world.cloud.quarantine.is_down = False
    assert (await push(world, message)).status == 204
    rows = world.cloud.audit_rows.rows
    assert {row["event_json"].encode() for row in rows} == {first, second}
    assert {row["chain"]["hash"] for row in rows} == {json.loads(data)["chain"]["hash"] for data in (first, second)}


@pytest.mark.parametrize("latency", ["1.5", None])
async def test_a_latency_that_is_no_number_does_not_hold_up_its_neighbours(world: World, latency: Any) -> None:
    first, second = await real_events(world, 2)
    other = resealed(second, latency_ms={"total": latency})
    assert (await push(world, wrapped(zlib.compress(b"\n".join([other, first]))))).status == 204
    assert first in [row["event_json"].encode() for row in world.cloud.audit_rows.rows]


async def test_each_of_a_hundred_events_in_a_message_is_judged(world: World) -> None:
    assert (await push(world, wrapped(zlib.compress(b"\n".join([b"{}"] * 100))))).status == 204
    assert [aside.data for aside in world.cloud.quarantine.messages] == [b"{}"] * 100


@pytest.mark.parametrize(
    "message",
    [
        zlib.compress(b"\n".join([b"{}"] * 101)),
        zlib.compress(b"x" * 100_001),
        zlib.compress(b"{}\n{}")[:-1],
        zlib.compress(b"{}\n{}") + b"{}",
        b"{}\n{}",
        b"",
    ],
    ids=["too many", "too much", "cut off", "followed by more", "not deflated", "nothing"],
)
async def test_what_no_publisher_makes_of_several_events_is_one_poison(world: World, message: bytes) -> None:
    assert (await push(world, wrapped(message))).status == 204
    assert [aside.data for aside in world.cloud.quarantine.messages] == [message]

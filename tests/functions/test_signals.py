"""Shared Signals: what an identity provider says after the login ends assertions, sessions and, where configured, grants."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.functions.test_calls import google_identity
from tests.protocol.test_assertions import FULL
from tests.support.asgi import Answer
from tests.support.jose import ABSENT, present, rsa_key
from tests.support.world import DROP, GLOBEX_IDP, IDP, IDP_KEY, ORIGIN, World, deployment, intent, task, unique

from cab.domain.errors import BrokerError
from cab.domain.identifiers import subject_key
from cab.ports import Create
from cab.protocol.tokens import assertions
from cab.stores.people.departures import Departure, Departures
from cab.use_cases.identity.still_here import StillHere

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
STREAM = "https://cab.example.com/signals"
GOOGLE_LIKE = "https://signals.example.com/"
READ = intent(identifier="query/q1")
DEAD = (400, "invalid_request", "subject_token_invalid")
SIGNALS = f"shared_signals: {{audience: [{STREAM}]}}"


def a_world(scratch: Path, entry: str = SIGNALS) -> World:
    """A world whose first identity provider has this line more."""
    folder = World(scratch=scratch).write_id_jag_deployment()
    path = folder / "identity_providers.yaml"
    text = path.read_text("utf-8").replace("tenant: acme\n", f"tenant: acme\n    {entry}\n", 1)
    path.write_text(text, "utf-8")
    return World(folder, scratch=scratch)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return a_world(tmp_path)


def event(world: World, kind: str, user: str = "alice", **changes: Any) -> dict[str, Any]:
    """A SET as SSF 1.0 wants it, for a change of its claims."""
    content = changes.pop("content", {"event_timestamp": world.now})
    return present(
        {
            "iss": IDP,
            "aud": STREAM,
            "iat": world.now,
            "jti": unique("set"),
            "sub_id": {"format": "iss_sub", "iss": IDP, "sub": user},
            "events": {kind: content},
        }
        | changes
    )


async def push(world: World, claims: dict[str, Any], *, key: Any = IDP_KEY, typ: Any = "secevent+jwt") -> Answer:
    token = key.sign(claims, {"typ": typ})
    headers = [("Content-Type", "application/secevent+jwt"), ("Accept", "application/json")]
    return await world.request("POST", "/ssf/events", headers=headers, body=token.encode())


async def test_a_revoked_session_ends_assertions_that_were_made_before(world: World) -> None:
    assertion = await world.assertion(user="alice")
    assert (await world.exchange(READ, subject_token=assertion)).status == 200
    answer = await push(world, event(world, CAEP + "session-revoked"))
    assert (answer.status, answer.body) == (202, b"")
    refused = await world.exchange(READ, subject_token=assertion)
    assert refused.refusal == DEAD
    assert world.last_event()["why"] == "the identity provider ended the login"


async def test_the_id_token_of_an_ended_login_mints_no_more_and_a_new_login_does(world: World) -> None:
    before = world.id_token("alice")
    await push(world, event(world, CAEP + "session-revoked"))
    assert (await world.mint(subject_token=before)).refusal == DEAD
    world.advance(60)
    again = await world.assertion(user="alice")
    assert (await world.exchange(READ, subject_token=again)).status == 200


async def test_a_login_whose_time_is_not_said_counts_from_its_id_token(world: World) -> None:
    before = world.id_token("alice", auth_time=ABSENT)
    await push(world, event(world, CAEP + "session-revoked"))
    assert (await world.mint(subject_token=before)).refusal == DEAD
    world.advance(60)
    assert (await world.mint(subject_token=world.id_token("alice", auth_time=ABSENT))).status == 200


async def test_an_event_that_comes_late_ends_what_was_made_meanwhile_from_the_id_token_of_before(world: World) -> None:
    before = world.id_token("alice", auth_time=ABSENT)
    world.advance(30)
    late = event(world, CAEP + "session-revoked")
    world.advance(5)
    minted = (await world.mint(subject_token=before, authorization_details=[task("warehouse.*")])).json["access_token"]
    pending = await world.exchange(DROP, subject_token=minted, completion_mode="deferred")
    given_on = (await world.delegate(minted, "assistant", "researcher")).json["access_token"]
    await world.decide(pending.json["interaction_uri"], approved=True)
    await push(world, late)
    assert (await world.exchange(READ, subject_token=minted)).refusal == DEAD
    assert (await world.exchange(READ, agent="researcher", subject_token=given_on)).refusal == DEAD
    assert (await world.poll(pending.json["deferral_code"])).reason == "deferral_code_invalid"


async def test_a_call_token_counts_from_the_id_token_too(world: World) -> None:
    before = world.id_token("alice", auth_time=ABSENT)
    world.advance(30)
    late = event(world, CAEP + "session-revoked")
    world.advance(5)
    minted = (await world.mint(subject_token=before, agent="caller")).json["access_token"]
    form = await world.exchange_form(agent="caller", subject_token=minted, resource=f"{ORIGIN}/mcp")
    token = (await world.post("/oauth2/token", present(form | {"authorization_details": ABSENT}))).json["access_token"]
    call = {"call_token": token, "policy_version": deployment(world.folder).policy_version, "connection": "warehouse"}
    await push(world, late)
    refused = await world.call_service("/internal/calls", call | {"detail": READ}, google_identity(world))
    assert refused.reason == "call_token_invalid"
    assert world.last_event()["why"] == "the identity provider ended the login"


async def test_nobody_else_is_touched(world: World) -> None:
    bob = await world.assertion(user="bob")
    await push(world, event(world, RISC + "account-disabled"))
    assert (await world.exchange(READ, subject_token=bob)).status == 200


async def test_a_closed_account_stays_closed_until_it_is_opened(world: World) -> None:
    await push(world, event(world, RISC + "account-disabled"))
    world.advance(3600)
    assert (await world.mint(subject_token=world.id_token("alice"))).refusal == DEAD
    assert world.last_event("mint_assertion")["why"] == "the identity provider closed the account"
    await push(world, event(world, RISC + "account-enabled"))
    assert (await world.mint(subject_token=world.id_token("alice"))).status == 200


async def test_an_old_delivery_that_comes_late_closes_nothing_again(world: World) -> None:
    closed = event(world, RISC + "account-disabled")
    await push(world, closed)
    world.advance(60)
    await push(world, event(world, RISC + "account-enabled"))
    assert (await push(world, closed)).status == 202
    world.advance(60)
    assert (await world.mint(subject_token=world.id_token("alice"))).status == 200


@pytest.mark.parametrize(
    "kind",
    [
        CAEP + "session-revoked",
        CAEP + "credential-change",
        RISC + "sessions-revoked",
        RISC + "credential-compromise",
        RISC + "account-credential-change-required",
        RISC + "account-disabled",
        RISC + "account-purged",
        "https://schemas.openid.net/secevent/oauth/event-type/tokens-revoked",
    ],
)
async def test_every_event_that_ends_a_login_ends_it(world: World, kind: str) -> None:
    assertion = await world.assertion(user="alice")
    await push(world, event(world, kind))
    assert (await world.exchange(READ, subject_token=assertion)).refusal == DEAD


@pytest.mark.parametrize(
    "kind",
    [
        CAEP + "device-compliance-change",
        CAEP + "token-claims-change",
        "https://schemas.openid.net/secevent/ssf/event-type/verification",
        "https://elsewhere.example.com/whatever",
    ],
)
async def test_other_events_are_acknowledged_and_end_nothing(world: World, kind: str) -> None:
    assertion = await world.assertion(user="alice")
    assert (await push(world, event(world, kind))).status == 202
    assert (await world.exchange(READ, subject_token=assertion)).status == 200


# --- as transmitters write them ---


def okta(world: World) -> dict[str, Any]:
    """Okta: the subject inside the event, a complex one, with a reason for people."""
    content = {
        "event_timestamp": world.now,
        "initiating_entity": "admin",
        "reason_admin": {"en": "Session revoked by an administrator"},
        "subject": {"user": {"format": "iss_sub", "iss": IDP, "sub": "alice"}},
    }
    return event(world, CAEP + "session-revoked", sub_id=ABSENT, content=content)


def okta_milliseconds(world: World) -> dict[str, Any]:
    content = okta(world)["events"][CAEP + "session-revoked"] | {"event_timestamp": world.now * 1000}
    return event(world, CAEP + "session-revoked", sub_id=ABSENT, content=content)


def google(world: World) -> dict[str, Any]:
    """Google Cross-Account Protection: the older spelling, several audiences, an issuer that ends with a slash."""
    content = {"subject": {"subject_type": "iss-sub", "iss": f"{IDP}/", "sub": "alice"}, "reason": "hijacking"}
    return event(world, RISC + "account-disabled", sub_id=ABSENT, aud=["other-client", STREAM], content=content)


def opaque(world: World) -> dict[str, Any]:
    return event(world, CAEP + "session-revoked", sub_id={"format": "opaque", "id": "alice"})


def complex_subject(world: World) -> dict[str, Any]:
    subject = {
        "format": "complex",
        "user": {"format": "iss_sub", "iss": IDP, "sub": "alice"},
        "session": {"format": "opaque", "id": "sid-1"},
    }
    return event(world, CAEP + "session-revoked", sub_id=subject)


def aliases(world: World) -> dict[str, Any]:
    named = [{"format": "email", "email": "a@example.com"}, {"format": "iss_sub", "iss": IDP, "sub": "alice"}]
    return event(world, CAEP + "session-revoked", sub_id={"format": "aliases", "identifiers": named})


@pytest.mark.parametrize("shape", [okta, okta_milliseconds, google, opaque, complex_subject, aliases])
async def test_the_shapes_of_transmitters_are_understood(
    world: World, shape: Callable[[World], dict[str, Any]]
) -> None:
    assertion = await world.assertion(user="alice")
    assert (await push(world, shape(world))).status == 202
    assert (await world.exchange(READ, subject_token=assertion)).refusal == DEAD


async def test_an_older_type_header_is_taken_and_that_of_other_tokens_is_not(world: World) -> None:
    taken: tuple[Any, ...] = ("JWT", ABSENT, "application/secevent+jwt")
    refused: tuple[Any, ...] = ("logout+jwt", "at+jwt", "cab-assertion+jwt", 7)
    for typ in taken:
        assert (await push(world, event(world, CAEP + "session-revoked"), typ=typ)).status == 202, typ
    for typ in refused:
        assert (await push(world, event(world, CAEP + "session-revoked"), typ=typ)).status == 400, typ


async def test_an_issuer_of_its_own_signs_with_its_own_keys(tmp_path: Path) -> None:
    transmitter = rsa_key("transmitter-key")
    entry = f"shared_signals: {{audience: [{STREAM}], issuer: '{GOOGLE_LIKE}', jwks_uri: {IDP}/transmitter-keys}}"
    world = a_world(tmp_path, entry)
    world.idp.documents["/transmitter-keys"] = {"keys": [transmitter.jwk]}
    said = event(world, RISC + "account-disabled", iss=GOOGLE_LIKE)
    assert (await push(world, said, key=IDP_KEY)).status == 400
    assert (await push(world, said | {"iss": IDP}, key=IDP_KEY)).status == 400
    assertion = await world.assertion(user="alice")
    assert (await push(world, said, key=transmitter)).status == 202
    assert (await world.exchange(READ, subject_token=assertion)).refusal == DEAD
    assert (await world.mint(subject_token=transmitter.sign({}, {}))).status == 400  # those keys sign no ID tokens


@pytest.mark.parametrize("stream", [STREAM, STREAM + "/second"])
async def test_one_transmitter_may_speak_for_several_providers(tmp_path: Path, stream: str) -> None:
    """As an Okta organisation does for its authorization servers. What it said was believed of the last one alone."""
    transmitter = rsa_key("transmitter-key")
    line = "shared_signals: {{audience: ['{}'], issuer: '{}', jwks_uri: '{}/transmitter-keys'}}"
    folder = a_world(tmp_path, line.format(STREAM, GOOGLE_LIKE, IDP)).folder
    path = folder / "identity_providers.yaml"
    other = f"tenant: globex\n    {line.format(stream, GOOGLE_LIKE, IDP)}\n"
    text = path.read_text("utf-8").replace("tenant: globex\n", other, 1)
    path.write_text(text.replace("algorithms: [ES256]", "algorithms: [ES256, RS256]"), "utf-8")
    world = World(folder, scratch=tmp_path)
    world.idp.documents["/transmitter-keys"] = {"keys": [transmitter.jwk]}
    assertion = await world.assertion(user="alice")

    sub_id = {"format": "opaque", "id": "alice"}
    said = event(world, RISC + "account-disabled", iss=GOOGLE_LIKE, sub_id=sub_id)

    assert (await push(world, said, key=transmitter)).status == 202
    assert (await world.exchange(READ, subject_token=assertion)).refusal == DEAD
    there = subject_key("globex", GLOBEX_IDP, "alice")
    known = await Departures(world.cloud.documents["approvals"]).of("globex", there)
    assert (known is not None) is (stream == STREAM)


# --- what is no event ---


async def test_whatever_is_no_event_for_this_stream_is_refused_and_changes_nothing(world: World) -> None:
    assertion = await world.assertion(user="alice")
    good = event(world, RISC + "account-disabled")
    stranger = rsa_key("stranger")
    for claims, key in (
        (good | {"aud": "https://elsewhere.example.com"}, IDP_KEY),
        (good | {"iss": "https://elsewhere.example.com"}, IDP_KEY),
        (good | {"iat": world.now + 3600}, IDP_KEY),
        (present(good | {"iat": ABSENT}), IDP_KEY),
        (present(good | {"jti": ABSENT}), IDP_KEY),
        (present(good | {"events": ABSENT}), IDP_KEY),
        (good | {"events": {}}, IDP_KEY),
        (good | {"events": {RISC + "account-disabled": "yes"}}, IDP_KEY),
        (good, stranger),
    ):
        answer = await push(world, claims, key=key)
        assert (answer.status, answer.json["err"]) == (400, "invalid_request"), claims
        assert world.last_event("connect_account")["outcome"] == "refused"
    assert (await world.exchange(READ, subject_token=assertion)).status == 200


async def test_an_id_token_is_no_event(world: World) -> None:
    answer = await push(world, {"iss": IDP, "aud": STREAM, "sub": "alice", "iat": world.now, "jti": "1"}, typ="JWT")
    assert answer.status == 400


async def test_a_provider_without_the_setting_sends_nothing_here(tmp_path: Path) -> None:
    world = a_world(tmp_path, "title: Acme")
    assert (await push(world, event(world, RISC + "account-disabled"))).status == 400


async def test_an_event_about_somebody_of_another_issuer_names_nobody(world: World) -> None:
    assertion = await world.assertion(user="alice")
    elsewhere = {"format": "iss_sub", "iss": "https://elsewhere.example.com", "sub": "alice"}
    for subject in (elsewhere, {"format": "email", "email": "alice@example.com"}, "alice", {"format": "opaque"}):
        assert (await push(world, event(world, RISC + "account-disabled", sub_id=subject))).status == 202
    assert (await world.exchange(READ, subject_token=assertion)).status == 200


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("PUT", 405)])
async def test_events_are_posted(world: World, method: str, status: int) -> None:
    assert (await world.request(method, "/ssf/events")).status == status


async def test_another_media_type_and_a_large_body_are_refused(world: World) -> None:
    headers = [("Content-Type", "application/json")]
    assert (await world.request("POST", "/ssf/events", headers=headers, body=b"{}")).status == 415
    headers = [("Content-Type", "application/secevent+jwt")]
    assert (await world.request("POST", "/ssf/events", headers=headers, body=b"x" * 70_000)).status == 413


# --- what else ends ---


async def test_a_deferral_and_an_id_jag_of_an_ended_login_are_over(world: World) -> None:
    assertion = await world.assertion(user="alice", task=task("warehouse.*"))
    pending = await world.exchange(DROP, subject_token=assertion, completion_mode="deferred")
    assert pending.reason == "confirmation_required" or pending.json["deferral_code"]
    jag = world.id_jag(sub="alice")
    await world.decide(pending.json["interaction_uri"], approved=True)
    await push(world, event(world, RISC + "account-disabled"))
    assert (await world.poll(pending.json["deferral_code"])).reason == "deferral_code_invalid"
    assert (await world.redeem(jag, authorization_details=[READ])).reason == "assertion_invalid"


async def test_a_purged_account_ends_its_grants_and_a_disabled_one_as_configured(tmp_path: Path) -> None:
    for kind, entry, ended in (
        ("account-purged", SIGNALS, True),
        ("account-disabled", SIGNALS, False),
        ("account-disabled", f"shared_signals: {{audience: [{STREAM}], ends_grants: [account_disabled]}}", True),
        ("account-purged", f"shared_signals: {{audience: [{STREAM}], ends_grants: []}}", False),
    ):
        scratch = tmp_path / unique("case")
        scratch.mkdir()
        world = a_world(scratch, entry)
        name = await world.connect("alice", "crm", "opportunity.read")
        assert (await push(world, event(world, RISC + kind))).status == 202
        stored = await world.cloud.documents["grants"].read(f"grants/{name}")
        assert stored is not None
        assert (stored.fields["status"] in ("revoking", "revoked")) is ended, (kind, entry)


async def test_what_cannot_be_written_is_sent_again(world: World) -> None:
    said = event(world, RISC + "account-disabled")
    world.break_documents("approvals", "write")
    answer = await push(world, said)
    assert answer.status == 503
    assert answer.header("retry-after")
    world.mend_documents("approvals")
    assert (await push(world, said)).status == 202


async def test_while_nothing_can_be_known_nobody_is_acted_for(world: World) -> None:
    assertion = await world.assertion(user="alice")
    world.break_documents("approvals", "read")
    answer = await world.exchange(READ, subject_token=assertion)
    assert (answer.status, answer.reason) == (503, "store_unavailable")


async def test_a_signal_is_on_record_with_whom_it_is_about(world: World) -> None:
    await push(world, event(world, RISC + "account-disabled"))
    recorded = world.last_event("connect_account")
    assert recorded["event_type"] == "signal.received"
    assert recorded["tool"] == {"action": "risc.account-disabled"}
    assert recorded["subject"]["key"] == subject_key("acme", IDP, "alice")
    assert (recorded["tenant"], recorded["outcome"]) == ("acme", "executed")


async def test_providers_that_say_nothing_cost_no_read(tmp_path: Path) -> None:
    world = a_world(tmp_path, "title: Acme")
    world.break_documents("approvals")
    assert (await world.exchange(READ)).status == 200


async def test_a_second_instance_refuses_within_a_second_of_the_event(world: World) -> None:
    """Its answer to the very next request, many times: nothing is remembered of a person between two requests."""
    took = []
    for _ in range(50):
        user = unique("user")
        assertion = await world.assertion(user=user)
        assert (await world.exchange(READ, subject_token=assertion)).status == 200  # warm
        other = world.cloud.build("exchange_token", world.environment)
        world._apps["exchange_token"], first = other, world._apps["exchange_token"]
        assert (await world.exchange(READ, subject_token=assertion)).status == 200  # this instance knows it too
        begun = time.perf_counter()
        assert (await push(world, event(world, RISC + "account-disabled", user))).status == 202
        assert (await world.exchange(READ, subject_token=assertion)).refusal == DEAD
        took.append(time.perf_counter() - begun)
        world._apps["exchange_token"] = first
    assert sorted(took)[-1] < 1


# --- people of a provider whose time is up ---


async def test_nobody_is_acted_for_whose_identity_provider_is_not_configured_any_more(world: World) -> None:
    """As an assertion of five minutes, or a session of an hour, finds it that was made before a deployment without the entry."""
    departures = Departures(world.cloud.documents["approvals"])
    here = StillHere(deployment(), departures, world.clock)
    asked = {"tenant": "acme", "subject": subject_key("acme", IDP, "alice"), "login": world.clock.now()}
    assert await here.ended(idp_issuer=IDP, **asked) is None
    gone = await here.ended(idp_issuer="https://gone.example.com", **asked)
    assert gone == "the identity provider is not configured any more"


async def test_access_until_ends_logins_assertions_and_the_time_they_live(tmp_path: Path) -> None:
    world = a_world(tmp_path, "access_until: 2026-11-21T12:04:00Z")
    minted = await world.mint(subject_token=world.id_token("partner"))
    assert minted.json["expires_in"] == 240
    world.advance(239)
    assert (await world.exchange(READ, subject_token=minted.json["access_token"])).status == 200
    world.advance(1)
    assert (await world.mint(subject_token=world.id_token("partner"))).status == 400
    assert (await world.redeem(world.id_jag(sub="partner"), authorization_details=[READ])).reason == "assertion_invalid"


@pytest.mark.parametrize(
    "said", [1795262640, "1795262640", 1795262640000, "2026-11-21T12:04:00Z", "2026-11-21T13:04:00+01:00"]
)
async def test_a_claim_ends_one_persons_rights_on_time_and_nobody_elses(tmp_path: Path, said: object) -> None:
    world = a_world(tmp_path, "access_until_claim: contract.ends")
    token = world.id_token("partner", contract={"ends": said})
    minted = await world.mint(subject_token=token)
    assert minted.json["expires_in"] == 240
    world.advance(239)
    assert (await world.exchange(READ, subject_token=minted.json["access_token"])).status == 200
    world.advance(1)
    assert (await world.mint(subject_token=token)).status == 400
    fresh = world.id_token("partner", contract={"ends": said})
    assert (await world.mint(subject_token=fresh)).reason == "subject_token_invalid"
    jag = world.id_jag(sub="partner", contract={"ends": said})
    assert (await world.redeem(jag, authorization_details=[READ])).reason == "assertion_invalid"
    assert (await world.mint(subject_token=world.id_token("alice"))).status == 200


async def test_a_last_day_counts_in_full_and_what_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    world = a_world(tmp_path, "access_until_claim: ends")
    assert (await world.mint(subject_token=world.id_token("partner", ends="2026-11-21"))).status == 200
    unread: list[Any] = ["2026-11-20", "next year", True, [], {"at": 1}, 1e300, "2026-13-01"]
    for ends in unread:
        assert (await world.mint(subject_token=world.id_token("partner", ends=ends))).status == 400, ends
    for none in (None, ""):
        assert (await world.mint(subject_token=world.id_token("partner", ends=none))).status == 200


@pytest.mark.parametrize(
    "ends", ["20261121013000Z", "20261121013000+0000", "20261121000000", 20261121000000, "nan", "inf"]
)
async def test_an_end_as_directories_write_it_is_not_taken_for_a_later_one(tmp_path: Path, ends: object) -> None:
    """At noon of that day: Python alone would read 13:00 of the first two, and the year 2612 of the numbers."""
    world = a_world(tmp_path, "access_until_claim: ends")
    token = world.id_token("partner", ends=ends)
    assert (await world.mint(subject_token=token)).status == 400


async def test_what_outlives_an_assertion_does_not_outlive_the_persons_access(world: World) -> None:
    """A deferred exchange goes on when its assertion has ended: the assertion says when the person's rights end."""
    here = StillHere(deployment(), Departures(world.cloud.documents["approvals"]), world.clock)
    now = int(world.clock.now().timestamp())
    ending = replace(FULL, idp_issuer=IDP, access_ends_at=now)
    kept = assertions.restore(ending.claims(audience="x", sts_issuer="y"))
    assert kept.access_ends_at == now
    with pytest.raises(BrokerError) as refused:
        await here.check(kept)
    assert refused.value.reason.value == "subject_token_invalid"
    await here.check(replace(kept, access_ends_at=now + 1))


# --- the store ---


async def test_of_two_notes_at_once_both_count(world: World) -> None:
    store = Departures(world.cloud.documents["approvals"])
    now = world.clock.now()
    await store.note("acme", "s", Departure(logins_until=now))
    await store.note("acme", "s", Departure(closed_at=now))
    known = await store.of("acme", "s")
    assert known == Departure(logins_until=now, closed_at=now)
    assert known.is_closed
    assert Departure(closed_at=now, opened_at=now).is_closed is False


async def test_a_note_that_another_overtakes_is_made_again(world: World) -> None:
    documents = world.cloud.documents["approvals"]
    store, now = Departures(documents), world.clock.now()
    read = documents.read
    overtaken: list[str] = []

    async def read_late(path: str, *, known: object | None = None) -> Any:
        found = await read(path, known=known)
        if not overtaken:
            overtaken.append(path)
            await documents.write(Create(path, {"logins_until": now, "closed_at": None, "opened_at": None}))
        return found

    documents.read = read_late  # type: ignore[method-assign]
    await store.note("acme", "s", Departure(closed_at=now))
    assert await store.of("acme", "s") == Departure(logins_until=now, closed_at=now)

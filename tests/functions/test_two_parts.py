"""A token whose event goes out beside its commit: whatever fails in between, nobody has a token that the record does not name, the
record names none that was withheld, and the grant lives."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import pytest
import uvicorn
from tests.grants.virtual_time import in_virtual_time
from tests.support.asgi import Answer
from tests.support.web import Sent
from tests.support.world import (
    ACCOUNTS,
    EXCHANGE_TOKEN,
    ORIGIN,
    REFRESH_GRANTS,
    GoogleIdentity,
    World,
    deployment,
    intent,
    task,
)

from cab.adapters.http.own_function import OwnFunction
from cab.adapters.refresh_grants_client import RefreshGrantsClient
from cab.domain.grants import GrantStatus
from cab.encoding import two_parts
from cab.first_word import first_word
from cab.ports import AccessToken, Foretell, HttpAnswer, Replace, SendFailed, Unavailable, Write

LIST: Final = intent("crm.deal.list", "deal/*")
LEASE_S: Final = 31

Act = Callable[[], Awaitable[None]]


async def connected(origin: str = REFRESH_GRANTS) -> World:
    world = World(CAB_REFRESH_GRANTS_URL=origin)
    world.web.hosts[origin] = world.web.hosts[REFRESH_GRANTS]
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read", "offline")
    await world.exchange(subject_token=await world.assertion(user="alice"))  # keys and the clock are read
    return world


async def ask(world: World) -> Answer:
    return await world.exchange(LIST, subject_token=await world.assertion(user="alice"))


def at_the_commit(world: World, act: Act) -> None:
    """What happens when refresh_grants has stored what the provider gave, and is about to make it the grant's."""
    documents = world.cloud.documents["grants"]
    write = documents.write

    async def watched(*writes: Write) -> tuple[object, ...]:
        if any(
            isinstance(it, Replace) and it.fields.get("outbox") and it.fields["status"] == GrantStatus.ACTIVE.value
            for it in writes
        ):
            await act()
        return await write(*writes)

    documents.write = watched  # type: ignore[method-assign]


def without(world: World) -> None:
    del world.cloud.documents["grants"].write  # the watching one


def ends(world: World) -> list[tuple[str | None, str | None]]:
    """What the record says of each exchange for the CRM, and of what takes it back."""
    return [
        (event.outcome, event.reason_code)
        for event in world.events()
        if event.tool is not None and event.tool.connection == "crm"
    ]


async def is_on_record(world: World) -> None:
    """Until the exchange's event is out."""
    async with asyncio.timeout(5):
        while not ends(world):
            await asyncio.sleep(0.01)


ISSUED: Final = ("issued", None)


def asked_of(world: World) -> int:
    return len(world.web.requests_to(REFRESH_GRANTS))


@in_virtual_time
async def test_the_event_goes_out_beside_the_commit_and_the_token_leaves_after_both() -> None:
    world = await connected()
    at_the_commit(world, lambda: is_on_record(world))
    answer = await ask(world)
    assert (answer.status, answer.json["access_token"]) == (200, "crm-access-1")
    assert ends(world) == [ISSUED]


@in_virtual_time
async def test_a_slow_commit_is_waited_for_and_nothing_vouches_for_its_event_before() -> None:
    world = await connected()
    wait_s = 5

    async def slow() -> None:
        await is_on_record(world)
        await world.exchange(subject_token=await world.assertion(user="bob"))
        world.advance(1)
        await asyncio.sleep(wait_s)

    at_the_commit(world, slow)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    answer = await ask(world)
    assert (answer.status, loop.time() - begun >= wait_s) == (200, True)
    without(world)
    assert (await ask(world)).json["expires_in"] == answer.json["expires_in"]  # of what is left when it leaves
    chains = [json.loads(message.data)["chain"] for message in world.cloud.audit_logs["exchange_token"].messages]
    issued, of_bob, last = (chain["settled"] for chain in chains[-3:])
    assert (issued, of_bob, last) == (1, 1, 3)


async def away() -> None:
    raise Unavailable("documents")


@in_virtual_time
async def test_a_commit_that_fails_after_the_event_is_answered_as_one_that_fails_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await connected()

    async def fail() -> None:
        await is_on_record(world)
        raise Unavailable("documents")

    at_the_commit(world, fail)
    answer = await ask(world)
    assert answer.refusal == (503, "temporarily_unavailable", "store_unavailable")
    assert ends(world) == [ISSUED, ("refused", "store_unavailable")]
    issued, taken_back = world.events()[-2:]
    assert (taken_back.event_type, taken_back.corrects) == ("token.withheld", issued.event_id)
    without(world)
    world.advance(LEASE_S)
    assert (await ask(world)).status == 200
    assert len(world.crm.refreshes) == 1  # what the provider gave was found

    before = await connected()
    monkeypatch.setattr("cab.encoding.two_parts.are_asked_for", lambda _: False)
    at_the_commit(before, away)
    alike = await ask(before)
    assert (alike.refusal, alike.header("retry-after")) == (answer.refusal, answer.header("retry-after"))
    assert ends(before) == [("refused", "store_unavailable")]


@in_virtual_time
async def test_a_grant_that_is_revoked_between_the_parts_gives_no_token_and_says_why() -> None:
    world = await connected()

    async def revoke() -> None:
        await is_on_record(world)
        token = world.google_token(REFRESH_GRANTS, email=f"connect-account@{ACCOUNTS}")
        body = {"tenant": "acme", "connection": "crm", "cause": "user", "txn": "t"}
        without(world)
        assert (await world.call_service("/grants/revoke", body, token)).status == 200

    at_the_commit(world, revoke)
    answer = await ask(world)
    assert answer.refusal == (400, "interaction_required", "grant_revoked")
    assert answer.json["interaction_uri"].endswith("connection=crm")
    assert ends(world) == [ISSUED, ("refused", "grant_revoked")]
    assert (await ask(world)).reason == "grant_revoked"


@in_virtual_time
async def test_an_event_that_is_not_acknowledged_withholds_a_token_that_was_committed_and_the_next_gets_it() -> None:
    world = await connected()
    log = world.cloud.audit_logs["exchange_token"]
    log.is_down = True
    assert (await ask(world)).refusal == (503, "temporarily_unavailable", "audit_unavailable")
    log.is_down = False
    asked = asked_of(world)
    again = await ask(world)
    assert (again.status, again.json["access_token"]) == (200, "crm-access-1")
    assert (len(world.crm.refreshes), asked_of(world)) == (1, asked)
    assert ends(world) == [ISSUED, ("refused", "audit_unavailable"), ISSUED]


@in_virtual_time
async def test_a_refresh_grants_that_dies_between_the_parts_loses_no_grant() -> None:
    world = await connected()
    answering = world.web.hosts[REFRESH_GRANTS]
    go_on = asyncio.Event()  # held here, or what waits for it is collected as garbage

    async def never() -> None:
        await go_on.wait()

    async def dies(sent: Sent) -> HttpAnswer:
        foretold = asyncio.Event()

        def hear(line: bytes) -> None:
            assert sent.first_line is not None
            sent.first_line(line)
            foretold.set()

        dying = asyncio.create_task(answering(replace(sent, first_line=hear)))
        await foretold.wait()
        await is_on_record(world)
        dying.cancel()
        world.restart("refresh_grants")
        raise SendFailed("grants", may_have_arrived=True)

    at_the_commit(world, never)
    world.web.hosts[REFRESH_GRANTS] = dies
    assert (await ask(world)).refusal == (503, "temporarily_unavailable", "provider_unavailable")
    assert ends(world) == [ISSUED, ("refused", "provider_unavailable")]
    world.web.hosts[REFRESH_GRANTS] = answering
    without(world)
    world.advance(LEASE_S)
    again = await ask(world)
    assert (again.status, again.json["access_token"], len(world.crm.refreshes)) == (200, "crm-access-1", 1)


@in_virtual_time
async def test_a_caller_that_leaves_between_the_parts_gets_nothing_and_the_grant_its_tokens() -> None:
    world = await connected()
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    at_the_commit(world, wait)
    asking = asyncio.create_task(ask(world))
    await is_on_record(world)
    await asyncio.sleep(0.1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert ends(world) == [ISSUED, ("refused", "audit_unavailable")]
    go_on.set()
    await asyncio.sleep(1)
    assert (await ask(world)).json["access_token"] == "crm-access-1"
    assert len(world.crm.refreshes) == 1


@in_virtual_time
async def test_who_asks_meanwhile_gets_the_token_when_it_is_the_grants_and_not_from_memory_before() -> None:
    world = await connected()
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    at_the_commit(world, wait)
    first = asyncio.create_task(ask(world))
    await is_on_record(world)
    asked = asked_of(world)
    second = asyncio.create_task(ask(world))
    await asyncio.sleep(1)
    assert (first.done(), second.done(), asked_of(world) - asked) == (False, False, 1)
    go_on.set()
    answers = await asyncio.gather(first, second)
    assert [answer.json["access_token"] for answer in answers] == ["crm-access-1"] * 2
    assert (ends(world), len(world.crm.refreshes)) == ([ISSUED, ISSUED], 1)


@in_virtual_time
async def test_a_refresh_grants_of_before_which_knows_of_no_parts_is_understood() -> None:
    world = await connected()
    answering = world.web.hosts[REFRESH_GRANTS]

    async def of_before(sent: Sent) -> HttpAnswer:
        assert "Accept" in sent.headers
        answer: HttpAnswer = await answering(replace(sent, headers={**sent.headers, "Accept": "*/*"}))
        assert answer.headers["content-type"] == "application/json"
        return answer

    world.web.hosts[REFRESH_GRANTS] = of_before
    at_the_commit(world, lambda: asyncio.sleep(1))
    assert (await ask(world)).json["access_token"] == "crm-access-1"
    assert ends(world) == [ISSUED]


@in_virtual_time
async def test_a_yes_is_spent_on_a_token_that_is_here_and_on_none_that_is_foretold() -> None:
    confirmed = World().write_policies('@id("asked") @confirm("Reads.") permit (principal, action, resource);')
    world = World(confirmed)
    await world.connect("alice", "crm", "deal.read", "deal.write", "contact.read", "offline")
    await world.decide((await ask(world)).json["interaction_uri"], approved=True)
    at_the_commit(world, away)
    assert (await ask(world)).refusal == (503, "temporarily_unavailable", "store_unavailable")
    assert "issued" not in dict(ends(world))
    without(world)
    world.advance(LEASE_S)
    assert (await ask(world)).status == 200


@in_virtual_time
async def test_a_call_of_the_broker_is_let_through_when_its_token_is_the_grants() -> None:
    world = await connected()
    of_broker = task(task_id="t-1")
    assertion = await world.assertion("caller", user="alice", task=of_broker)
    form = await world.exchange_form(agent="caller", subject_token=assertion, resource=f"{ORIGIN}/mcp")
    del form["authorization_details"]
    call_token = (await world.post("/oauth2/token", form)).json["access_token"]
    detail = intent("crm.deal.update", "deal/d1", parameters={"stage": "won"})
    body = {"call_token": call_token, "policy_version": deployment().policy_version}
    body |= {"connection": "crm", "detail": detail}

    async def let_through() -> Answer:
        token = world.google_token(EXCHANGE_TOKEN, email=f"call-tool@{ACCOUNTS}")
        return await world.call_service("/internal/calls", body, token)

    async def fail() -> None:
        await is_on_record(world)
        raise Unavailable("documents")

    at_the_commit(world, fail)
    assert (await let_through()).refusal == (503, "temporarily_unavailable", "store_unavailable")
    assert ends(world) == [ISSUED, ("refused", "store_unavailable")]
    without(world)
    world.advance(LEASE_S)
    assert (await let_through()).json["access_token"] == "crm-access-1"


# --- what refresh_grants says ---


async def told(world: World, **changes: Any) -> Answer:
    token = world.google_token(REFRESH_GRANTS, email=f"exchange-token@{ACCOUNTS}")
    body = {"subject_assertion": await world.assertion(user="alice"), "connection": "crm", "txn": "t-1"}
    body |= {"scopes": ["deal.read"]} | changes
    return await world.request(
        "POST",
        "/grants/token",
        headers=[("Authorization", f"Bearer {token}"), ("Accept", two_parts.ACCEPT)],
        body=json.dumps(body).encode(),
    )


@in_virtual_time
async def test_the_first_part_holds_what_a_record_needs_and_no_token_and_the_last_the_answer() -> None:
    world = await connected()
    answer = await told(world)
    assert (answer.status, answer.header("content-type"), answer.txn) == (200, two_parts.MEDIA_TYPE, "t-1")
    assert answer.header("cache-control") == "no-store"
    first = answer.body.partition(b"\n")[0]
    assert b"crm-access" not in first
    assert b"crm-refresh" not in answer.body
    whole, status, retry_after_s = two_parts.read_last(answer.body)
    assert (whole["access_token"], whole["outcome"], status, retry_after_s) == ("crm-access-1", "success", 200, None)
    said = json.loads(first)
    assert (said["seq"], said["secret_version"], said["scopes"]) == (2, 2, ["deal.read"])
    assert {name: said[name] for name in ("grant_id", "expires_at", "renew_at", "works_until", "narrowed")}.items() <= (
        whole.items()
    )


@in_virtual_time
async def test_what_needs_no_commit_comes_in_one_part_whoever_asks_for_two() -> None:
    world = await connected()
    await told(world)
    again = await told(world)
    assert (again.header("content-type"), again.json["outcome"]) == ("application/json", "cached")
    refused = await told(world, scopes=["deal.delete"])
    assert refused.refusal == (400, "invalid_scope", "scope_not_grantable")


@in_virtual_time
async def test_a_caller_that_hangs_up_after_the_first_part_does_not_end_the_request() -> None:
    """While a request is open the process has its CPU: the commit goes on."""
    world = await connected()
    at_the_commit(world, lambda: asyncio.sleep(5))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await told(world)  # the server is told that its caller is gone when it listens for that
    assert loop.time() - begun >= 5


async def test_over_a_connection_the_first_part_comes_while_the_commit_is_under_way() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    world = await connected(origin)
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    at_the_commit(world, wait)
    app = world.function("refresh_grants")
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve([listening]))
    http = OwnFunction(origin, what="grants", allow_loopback_http=True)
    client = RefreshGrantsClient(origin, http, GoogleIdentity(world, "exchange-token"))
    who = await world.assertion(user="alice")

    async def asked_for(foretell: Foretell) -> AccessToken:
        return await client.access_token(
            subject_assertion=who, connection="crm", scopes=("deal.read",), txn="t-1", foretell=foretell
        )

    async with asyncio.timeout(10):
        foretold, asking = await first_word(asked_for)
        assert (foretold is not None, asking.done()) == (True, False)
        go_on.set()
        token = await asking
    assert (token.access_token, token.foretold()) == ("crm-access-1", foretold)
    await http.close()
    server.should_exit = True
    await serving

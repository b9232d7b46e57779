"""`@agent.tool`: the intent comes from the arguments, is declared before the body runs, and the client is nobody's argument."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import inspect
import threading
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cab_client import (
    Agent,
    Assertion,
    AsyncAgent,
    AsyncAuthorizedClient,
    AuthorizedClient,
    ClientSecret,
    ConfirmationNeeded,
    ConnectionNeeded,
    Intent,
    InvalidArgument,
    Misconfigured,
    NeedsUser,
    NoUser,
    Refused,
    TryLater,
    UserRefused,
    WrongOrigin,
    acting_for,
    bind,
    current_assertion,
)
from cab_client.testing import FakeBroker, running_stack

CONNECTIONS = {"crm": "https://crm.acme.example/api"}
agent = Agent("https://cab.acme.example", ClientSecret("sales-assistant", "s"), connections=CONNECTIONS)
ran: list[str] = []


class Stage(enum.Enum):
    WON = "won"


@agent.tool("crm.note.create", on="crm", identifier="opportunity/{deal_id}", parameters=("text",))
def add_note(deal_id: str, text: str = "nothing", *, http: AuthorizedClient) -> str:
    """Add a note to a deal."""
    ran.append(text)
    return http.post(f"opportunities/{deal_id}/notes", json={"text": text}).request.url.path


@agent.tool(
    "crm.opportunity.update",
    on="crm",
    identifier="opportunity/{deal}",
    parameters={"stage": "to", "amount_cents": "amount"},
)
def move(deal: int, to: Stage, amount: int | None = None, *, http: AuthorizedClient) -> None:
    http.patch(f"opportunities/{deal}", json={"stage": to.value} | ({} if amount is None else {"amount_cents": amount}))


@pytest.fixture(autouse=True)
def _clean() -> None:
    ran.clear()


def test_the_intent_is_made_of_the_arguments_that_are_used(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    with acting_for(cab_fake.user("alice")):
        assert add_note("0061", text="hello") == "/api/opportunities/0061/notes"
    (exchange,) = cab_fake.exchanges
    assert (exchange.user, exchange.agent, exchange.intent.action) == ("alice", "sales-assistant", "crm.note.create")
    assert exchange.intent.identifier == "opportunity/0061"
    assert exchange.intent.parameters == {"text": "hello"}


def test_defaults_are_declared_and_what_is_none_is_not(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create", "crm.opportunity.update")
    with acting_for(cab_fake.user("alice")):
        add_note("0061")
        move(61, Stage.WON)
    assert [dict(one.intent.parameters) for one in cab_fake.exchanges] == [{"text": "nothing"}, {"stage": "won"}]
    assert cab_fake.exchanges[1].intent.identifier == "opportunity/61"


@pytest.mark.parametrize("value", ["*", "a/b", "..", ".", "", "0061?x=1", "a\n", "a b", "%2e", None, True, 1.5, ["a"]])
def test_what_is_no_single_identifier_reaches_nobody(cab_fake: FakeBroker, value: object) -> None:
    cab_fake.permit("crm.note.create")
    with acting_for(cab_fake.user("alice")), pytest.raises(InvalidArgument) as wrong:
        add_note(value, "x")
    assert wrong.value.parameter == "deal_id"
    assert "deal_id" in wrong.value.for_model()
    assert (cab_fake.exchanges, ran) == ([], [])


@pytest.mark.parametrize("value", [1.5, {"a": 1}, b"x", [1]])
def test_what_cannot_be_shown_in_an_intent_reaches_nobody(cab_fake: FakeBroker, value: object) -> None:
    with acting_for(cab_fake.user("alice")), pytest.raises(InvalidArgument):
        add_note("0061", value)
    assert (cab_fake.exchanges, ran) == ([], [])


def test_the_body_does_not_run_without_a_permit(cab_fake: FakeBroker) -> None:
    cab_fake.refuse("crm.note.create")
    with acting_for(cab_fake.user("alice")), pytest.raises(Refused):
        add_note("0061", "x")
    assert ran == []


def test_nobody_sees_the_client_in_the_signature() -> None:
    assert str(inspect.signature(add_note)) == "(deal_id: str, text: str = 'nothing') -> str"
    assert typing.get_type_hints(add_note) == {"deal_id": str, "text": str, "return": str}
    assert (add_note.__name__, add_note.__doc__) == ("add_note", "Add a note to a deal.")
    assert not hasattr(add_note, "__wrapped__")


def test_a_model_cannot_give_the_client_or_the_assertion(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    with acting_for(cab_fake.user("alice")):
        for name in ("http", "assertion", "identifier", "reason"):
            with pytest.raises(TypeError):
                add_note("0061", "x", **{name: "y"})


def test_an_argument_that_the_intent_would_not_tell_is_a_mistake_of_the_programmer() -> None:
    def update(deal_id: str, stage: str, *, http: AuthorizedClient) -> None: ...

    with pytest.raises(ValueError, match="would not tell of stage"):
        agent.tool("crm.opportunity.update", on="crm", identifier="opportunity/{deal_id}")(update)
    agent.tool("crm.opportunity.update", on="crm", identifier="opportunity/{deal_id}", undeclared=("stage",))(update)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"on": "erp"}, "no connection erp"),
        ({"identifier": "opportunity/{other}"}, "no argument other"),
        ({"identifier": "opportunity/{deal_id"}, "not an identifier template"),
    ],
)
def test_mistakes_are_told_when_the_tool_is_declared(how: dict[str, str], text: str) -> None:
    def read(deal_id: str, *, http: AuthorizedClient) -> None: ...

    options: dict[str, Any] = {"on": "crm", "identifier": "opportunity/{deal_id}"} | how
    with pytest.raises(ValueError, match=text):
        agent.tool("crm.opportunity.read", **options)(read)


def test_the_decorator_goes_innermost_and_on_its_own_kind() -> None:
    declare = agent.tool("crm.opportunity.read", on="crm", identifier="opportunity/*")

    async def asynchronous(*, http: AsyncAuthorizedClient) -> None: ...
    def without_client() -> None: ...
    def open_ended(*args: str, http: AuthorizedClient) -> None: ...

    class Wrapped:
        def __call__(self) -> None: ...

    for wrong in (asynchronous, without_client, open_ended, Wrapped()):
        with pytest.raises(TypeError):
            declare(wrong)


def test_the_client_leaves_its_origin_for_nothing(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.opportunity.read", effect="read")
    with agent.acting(
        "crm.opportunity.read", on="crm", identifier="opportunity/1", assertion=cab_fake.user("alice")
    ) as http:
        for address in (
            "https://evil.example/",
            "http://crm.acme.example/",
            "https://crm.acme.example:8443/",
            "https://crm.acme.example.evil.example/",
        ):
            with pytest.raises(WrongOrigin):
                http.get(address)
        with pytest.raises(WrongOrigin):
            http.send(httpx2.Request("GET", "https://evil.example/"))
    assert cab_fake.requests == []


def test_a_redirect_is_handed_back_and_not_followed(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.opportunity.read", effect="read")
    cab_fake.answer("GET", "https://crm.acme.example/api/x", None, status=302)
    with agent.acting(
        "crm.opportunity.read", on="crm", identifier="opportunity/1", assertion=cab_fake.user("alice")
    ) as http:
        assert http.get("x", follow_redirects=True).status_code == 302
    assert len(cab_fake.requests) == 1


def test_another_token_cannot_be_put_in_its_place(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.opportunity.read", effect="read")
    with agent.acting(
        "crm.opportunity.read", on="crm", identifier="opportunity/1", assertion=cab_fake.user("alice")
    ) as http:
        http.get("x", auth=("someone", "else"), headers={"Authorization": "Bearer other"})
    assert cab_fake.requests[0].headers["authorization"].startswith("Bearer ey")


def test_the_token_ends_with_the_block(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.opportunity.read", effect="read")
    with agent.acting(
        "crm.opportunity.read", on="crm", identifier="opportunity/1", assertion=cab_fake.user("alice")
    ) as http:
        permit = http.permit
    assert permit.reveal() == ""
    with pytest.raises(RuntimeError):
        http.get("x")


def test_every_call_is_an_exchange_of_its_own(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    with acting_for(cab_fake.user("alice")):
        add_note("0061", "x")
        add_note("0061", "x")
    assert len(cab_fake.exchanges) == 2
    tokens = {request.headers["authorization"] for request in cab_fake.requests}
    assert len(tokens) == 2


def test_a_pause_is_made_until_the_user_has_answered(cab_fake: FakeBroker) -> None:
    cab_fake.ask("crm.opportunity.delete")
    seen: list[NeedsUser] = []

    def pause(needed: NeedsUser) -> None:
        seen.append(needed)
        assert needed.uri is not None
        cab_fake.approve(needed.uri, user="alice")

    @agent.tool("crm.opportunity.delete", on="crm", identifier="opportunity/{deal_id}", pause=pause)
    def delete(deal_id: str, *, http: AuthorizedClient) -> int:
        return http.delete(f"opportunities/{deal_id}").status_code

    with acting_for(cab_fake.user("alice")):
        assert delete("0061") == 200
    assert [type(one) for one in seen] == [ConfirmationNeeded]


def test_a_pause_that_changes_nothing_does_not_let_the_tool_run(cab_fake: FakeBroker) -> None:
    cab_fake.ask("crm.opportunity.delete")
    deleted = []

    @agent.tool("crm.opportunity.delete", on="crm", identifier="opportunity/{deal_id}", pause=lambda _: True)
    def delete(deal_id: str, *, http: AuthorizedClient) -> None:
        deleted.append(deal_id)

    with acting_for(cab_fake.user("alice")), pytest.raises(ConfirmationNeeded):
        delete("0061")
    assert deleted == []


def test_links_go_to_the_user_out_of_band(cab_fake: FakeBroker) -> None:
    links: list[str | None] = []
    told = Agent(
        "https://cab.acme.example",
        ClientSecret("a", "s"),
        connections=CONNECTIONS,
        on_user=lambda needed: links.append(needed.uri),
    )
    cab_fake.refuse("crm.opportunity.read", reason="grant_missing")
    with (
        pytest.raises(ConnectionNeeded) as needed,
        told.acting("crm.opportunity.read", on="crm", identifier="opportunity/1", assertion=cab_fake.user("alice")),
    ):
        pass
    assert needed.value.kind == "missing"
    assert links == ["https://cab.acme.example/connect"]


async def test_links_are_told_asynchronously_where_somebody_awaits_it(cab_fake: FakeBroker) -> None:
    links: list[str | None] = []

    async def tell(needed: NeedsUser) -> None:
        await asyncio.sleep(0)
        links.append(needed.uri)

    cab_fake.refuse(READ.action, reason="grant_missing")
    other = cab_fake.async_agent("a", on_user=tell)
    with pytest.raises(ConnectionNeeded):
        await other.permit(READ, assertion=cab_fake.user("alice"))
    assert links == ["https://cab.fake/connect"]
    await other.aclose()
    with pytest.raises(TypeError, match="nobody would await"):
        cab_fake.agent("a", on_user=tell)


def test_a_permit_for_no_system_is_not_used_as_one(cab_fake: FakeBroker) -> None:
    calling = cab_fake.agent("a")
    permit = calling.call_token(assertion=cab_fake.user("alice"))
    with pytest.raises(ValueError, match="for no connection"), calling.using(permit):
        pass


def test_a_stack_without_its_command_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="set CAB_COMMAND"), running_stack(tmp_path, command="no-such-cab"):
        pass


async def test_asynchronous_tools_are_tools_too(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    other = AsyncAgent("https://cab.acme.example", ClientSecret("a", "s"), connections=CONNECTIONS)

    @other.tool("crm.note.create", on="crm", identifier="opportunity/{deal_id}", parameters=("text",))
    async def note(deal_id: str, text: str, *, http: AsyncAuthorizedClient) -> int:
        return (await http.post(f"opportunities/{deal_id}/notes", json={"text": text})).status_code

    assert inspect.iscoroutinefunction(note)
    with acting_for(cab_fake.user("alice")):
        assert await note("0061", "x") == 200
    await other.aclose()


def test_in_call_mode_the_broker_does_it_and_the_body_never_runs(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    cab_fake.answer("CALL", "crm.note.create", {"id": "n-1"})
    by_call = Agent("https://cab.fake", ClientSecret("a", "s"), connections={"crm": "https://crm.fake"}, mode="call")

    @by_call.tool("crm.note.create", on="crm", identifier="opportunity/{deal_id}", parameters=("text",))
    def note(deal_id: str, text: str) -> dict[str, str]:
        raise AssertionError("never")

    with acting_for(cab_fake.user("alice")):
        assert note("0061", "x") == {"id": "n-1"}
    assert cab_fake.calls == [{"tool": "crm_note_create", "arguments": {"text": "x", "id": "0061"}}]
    assert cab_fake.requests == []


def test_a_tool_that_the_broker_does_not_list_is_found_at_start(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    by_call = Agent("https://cab.fake", ClientSecret("a", "s"), connections={"crm": "https://crm.fake"}, mode="call")

    @by_call.tool("crm.note.make", on="crm", identifier="opportunity/{deal_id}", parameters=("text",))
    def note(deal_id: str, text: str) -> None: ...

    with pytest.raises(Misconfigured, match=r"note: the broker lists no crm\.note\.make"):
        by_call.check(assertion=cab_fake.user("alice"))


# --- for whom ---


def test_a_new_thread_acts_for_nobody_unless_bound(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    with acting_for(cab_fake.user("alice")), ThreadPoolExecutor(1) as pool:
        with pytest.raises(NoUser):
            pool.submit(add_note, "0061", "x").result()
        assert pool.submit(bind(add_note), "0061", "x").result()
    with pytest.raises(NoUser):
        add_note("0061", "x")


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_bound_coroutine_acts_for_its_own_user_whoever_awaits_it(
    cab_fake: FakeBroker, *, wrapped: bool
) -> None:
    cab_fake.permit("crm.note.create")
    other = cab_fake.async_agent("a")

    @other.tool("crm.note.create", on="crm", identifier="opportunity/{deal_id}")
    async def note(deal_id: str, *, http: AsyncAuthorizedClient) -> None: ...

    with acting_for(cab_fake.user("alice")):
        bound = bind(lambda: note("0061")) if wrapped else bind(functools.partial(note, "0061"))
    assert inspect.iscoroutinefunction(bound) is not wrapped
    await bound()
    with acting_for(cab_fake.user("bob")) as bobs:
        await bound()
        assert current_assertion() is bobs
    assert [one.user for one in cab_fake.exchanges] == ["alice", "alice"]


def test_a_generator_is_not_bound_in_vain() -> None:
    def steps() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        bind(steps)


def test_two_users_at_once_do_not_meet(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    barrier = threading.Barrier(8, timeout=10)

    def one(name: str) -> None:
        with acting_for(cab_fake.user(name)):
            barrier.wait()
            add_note("0061", name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, [f"user{number}" for number in range(8)]))
    assert {(one.user, one.intent.parameters["text"]) for one in cab_fake.exchanges} == {
        (f"user{number}", f"user{number}") for number in range(8)
    }


# --- repetition ---


def test_an_exchange_is_repeated_with_a_fresh_assertion_when_the_broker_cannot_answer(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    cab_fake.down = 2
    with acting_for(cab_fake.user("alice")):
        add_note("0061", "x")
    assert len(cab_fake.exchanges) == 1


def test_it_is_not_repeated_for_ever(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    cab_fake.down = 5
    with acting_for(cab_fake.user("alice")), pytest.raises(TryLater):
        add_note("0061", "x")
    assert cab_fake.down == 2
    assert ran == []


def test_the_tools_own_request_is_never_repeated(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    cab_fake.answer("POST", "https://crm.acme.example/api/opportunities/0061/notes", {}, status=503)
    with acting_for(cab_fake.user("alice")):
        add_note("0061", "x")
    assert len(cab_fake.requests) == 1


def test_a_no_of_the_user_is_a_refusal_too(cab_fake: FakeBroker) -> None:
    assert issubclass(UserRefused, Refused)


# --- a token that the system refuses ---

READ = Intent("crm.opportunity.read", on="crm", identifier="opportunity/1")


@pytest.fixture
def refusing(cab_fake: FakeBroker) -> Assertion:
    """A broker whose tokens the system takes, until the test ends them."""
    cab_fake.permit("crm.opportunity.read", effect="read")
    cab_fake.permit("crm.note.create")
    return cab_fake.user("alice")


def test_a_read_whose_token_is_refused_is_made_once_more_with_another(
    cab_fake: FakeBroker, refusing: Assertion
) -> None:
    told = Agent("https://cab.acme.example", ClientSecret("a", "s"), connections=CONNECTIONS, reports=True)
    with told.using(told.permit(READ, assertion=refusing), assertion=refusing) as http:
        first = http.permit
        cab_fake.end_tokens()
        assert http.get("opportunities/1").status_code == 200
    assert first.reveal() == ""
    assert [one.rejected for one in cab_fake.exchanges] == [False, True]
    assert [one["outcome"] for one in cab_fake.outcomes] == ["rejected", "done"]


async def test_asyncio_makes_it_once_more_too(cab_fake: FakeBroker, refusing: Assertion) -> None:
    other = AsyncAgent("https://cab.acme.example", ClientSecret("a", "s"), connections=CONNECTIONS)
    async with other.using(await other.permit(READ, assertion=refusing), assertion=refusing) as http:
        cab_fake.end_tokens()
        assert (await http.get("opportunities/1")).status_code == 200
    assert len(cab_fake.exchanges) == 2
    await other.aclose()


class Slow(FakeBroker):
    """Answers late, so that all requests of a block are under way at once."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await super().handle_async_request(request)
        await asyncio.sleep(0.05)
        return answer


async def test_reads_that_meet_the_same_refusal_are_all_made_once_more_with_one_other_token() -> None:
    with Slow().installed() as broker:
        broker.permit(READ.action, effect="read")
        other, alice = broker.async_agent("a"), broker.user("alice")
        async with other.acting(READ.action, on="crm", identifier=READ.identifier, assertion=alice) as http:
            broker.end_tokens()
            answers = await asyncio.gather(*(http.get(f"/opportunities/{number}") for number in range(4)))
        await other.aclose()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(broker.exchanges) == 2


def test_it_is_made_no_third_time(cab_fake: FakeBroker, refusing: Assertion) -> None:
    cab_fake.answer("GET", "https://crm.acme.example/api/opportunities/1", {}, status=401)
    with agent.acting(READ.action, on="crm", identifier=READ.identifier, assertion=refusing) as http:
        assert [http.get("opportunities/1").status_code for _ in range(3)] == [401, 401, 401]
    assert (len(cab_fake.exchanges), len(cab_fake.requests)) == (2, 4)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_write_is_never_made_twice(cab_fake: FakeBroker, refusing: Assertion, method: str) -> None:
    with agent.acting("crm.note.create", on="crm", identifier="opportunity/1", assertion=refusing) as http:
        cab_fake.end_tokens()
        assert http.request(method, "opportunities/1").status_code == 401
    assert (len(cab_fake.exchanges), len(cab_fake.requests)) == (1, 1)


def test_who_must_connect_again_is_told_so(cab_fake: FakeBroker, refusing: Assertion) -> None:
    with agent.acting(READ.action, on="crm", identifier=READ.identifier, assertion=refusing) as http:
        cab_fake.end_tokens()
        cab_fake.refuse(READ.action, reason="grant_needs_reauth")
        with pytest.raises(ConnectionNeeded):
            http.get("opportunities/1")


def test_a_tool_that_has_written_is_not_made_to_run_again(cab_fake: FakeBroker, refusing: Assertion) -> None:
    """An error for the user would have a framework pause, and then call the tool again from its start."""
    with agent.acting("crm.note.create", on="crm", identifier="opportunity/1", assertion=refusing) as http:
        http.post("opportunities/1/notes")
        cab_fake.end_tokens()
        cab_fake.refuse("crm.note.create", reason="grant_needs_reauth")
        assert http.get("opportunities/1").status_code == 401


# --- what came of a token ---


class Failing(FakeBroker):
    """Its systems do not answer a PATCH, and give no leave to a PUT; each answer takes a moment."""

    def _platform(self, request: httpx2.Request, home: str) -> httpx2.Response:
        if request.method == "PATCH":
            raise httpx2.ReadTimeout("no answer", request=request)
        return httpx2.Response(409) if request.method == "PUT" else super()._platform(request, home)


@pytest.mark.parametrize(
    ("methods", "outcome", "status"),
    [
        (["GET", "PATCH"], "unknown", None),
        (["PATCH", "GET"], "unknown", None),
        (["PUT", "GET"], "rejected", 409),
        (["GET", "POST", "GET"], "done", 200),
        (["GET"], "done", 200),
        ([], "not_used", None),
    ],
)
@pytest.mark.parametrize("caught", [True, False])
def test_what_is_reported_is_what_came_of_the_change(
    methods: list[str], outcome: str, status: int | None, *, caught: bool
) -> None:
    with Failing().installed() as broker:
        broker.permit("crm.note.create")
        told = broker.agent("a", reports=True)
        with (
            contextlib.suppress(httpx2.HTTPError),
            told.acting("crm.note.create", on="crm", identifier="o/1", assertion=broker.user("alice")) as http,
        ):
            for method in methods:
                with contextlib.suppress(httpx2.HTTPError) if caught else contextlib.nullcontext():
                    http.request(method, "/x")
    (said,) = broker.outcomes
    assert (said["outcome"], said.get("upstream_status")) == (outcome, status)


def test_a_tool_whose_change_got_no_answer_is_not_made_to_run_again() -> None:
    with Failing().installed() as broker:
        broker.permit("crm.note.create")
        alice = broker.user("alice")
        with broker.agent("a").acting("crm.note.create", on="crm", identifier="o/1", assertion=alice) as http:
            with pytest.raises(httpx2.ReadTimeout):
                http.patch("/x")
            broker.end_tokens()
            broker.refuse("crm.note.create", reason="grant_needs_reauth")
            assert http.get("/x").status_code == 401


async def test_a_cancelled_block_drops_its_token_though_nobody_can_be_told(cab_fake: FakeBroker) -> None:
    cab_fake.permit("crm.note.create")
    told = cab_fake.async_agent("a", reports=True)
    entered = asyncio.Event()
    permits = []

    async def block() -> None:
        alice = cab_fake.user("alice")
        async with told.acting("crm.note.create", on="crm", identifier="o/1", assertion=alice) as http:
            permits.append(http.permit)
            entered.set()
            await asyncio.sleep(60)

    async def stalled(*_: object, **__: object) -> None:
        task.cancel()  # as scopes do, again and again
        await asyncio.sleep(60)

    task = asyncio.create_task(block())
    await entered.wait()
    told.report = stalled  # type: ignore[method-assign]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert permits[0].reveal() == ""

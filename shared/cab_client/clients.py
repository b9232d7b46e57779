"""What applications hold: a front end and an agent, each for threads and for asyncio, over one core without I/O."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import Any, Literal, TypeVar

from cab_client import tools
from cab_client.authorized import AsyncAuthorizedClient, AsyncPeerClient, AuthorizedClient, PeerClient, outcome_of
from cab_client.broker import Broker, CallResult
from cab_client.credentials import ClientCredential, DpopKey
from cab_client.current import as_assertion, assertion_of, current_assertion
from cab_client.errors import CabError, CallRejected, ConfirmationNeeded, Misconfigured, NeedsUser
from cab_client.flows import Flow
from cab_client.transport import AsyncDriver, SyncDriver
from cab_client.values import Assertion, Connection, Intent, Permit, Scalar, Secret, Task

R = TypeVar("R")

User = Assertion | str | Secret
Mode = Literal["token", "call"]
OnUser = Callable[[NeedsUser], Any]
Pause = Callable[[NeedsUser], Any]

_PAUSES = 5  # of one call: connecting, connecting again, confirming


def _connections(given: Mapping[str, str | Connection] | None) -> dict[str, Connection]:
    return {
        name: value if isinstance(value, Connection) else Connection(value) for name, value in (given or {}).items()
    }


class FrontEnd:
    """The application's server: trades its user's ID token for an assertion, once for each request of the user."""

    def __init__(self, origin: str, credential: ClientCredential, *, dpop: DpopKey | None = None) -> None:
        self._broker = Broker(origin, credential, dpop=dpop)
        self._driver = SyncDriver()

    def mint(self, id_token: str | Secret, *, may_act: str | None = None, task: Task | None = None) -> Assertion:
        """An assertion that the agent `may_act` may use. Without a task it is good for reads only.

        Raises: LoginExpired, StepUpNeeded, TryLater, Misconfigured.
        """
        return self._driver.run(self._broker.mint(id_token, may_act=may_act, task=task))

    def close(self) -> None:
        self._driver.close()


class AsyncFrontEnd:
    """`FrontEnd` for asyncio."""

    def __init__(self, origin: str, credential: ClientCredential, *, dpop: DpopKey | None = None) -> None:
        self._broker = Broker(origin, credential, dpop=dpop)
        self._driver = AsyncDriver()

    async def mint(self, id_token: str | Secret, *, may_act: str | None = None, task: Task | None = None) -> Assertion:
        """See `FrontEnd.mint`."""
        return await self._driver.run(self._broker.mint(id_token, may_act=may_act, task=task))

    async def aclose(self) -> None:
        await self._driver.aclose()


class _AgentBase:
    """What both agents share: the configuration, the tools, and what does no I/O."""

    _driver: Any  # SyncDriver or AsyncDriver
    _run: Callable[[Flow[Any], Assertion | None], Any]  # gives the result, or is to be awaited

    def __init__(
        self,
        origin: str,
        credential: ClientCredential,
        *,
        connections: Mapping[str, str | Connection] | None = None,
        dpop: DpopKey | None = None,
        mode: Mode = "token",
        peers: Mapping[str, str] | None = None,
        on_user: OnUser | None = None,
        reports: bool = False,
        deadline_s: float = 30.0,
        timeout_s: float = 30.0,
    ) -> None:
        """`connections`: by id, the address of the API (its origin is the resource) or a `Connection`. `mode`: who makes the
        calls of the tools, the agent with a token or the broker. `peers`: by client id, the origin of other agents.
        `on_user` is told of every link that a user must open; that of an AsyncAgent may be asynchronous.
        `reports`: tell the broker what came of every token.
        """
        if isinstance(self, Agent) and inspect.iscoroutinefunction(on_user):
            raise TypeError("nobody would await this on_user: an Agent calls it, an AsyncAgent may await it")
        self._broker = Broker(
            origin, credential, connections=_connections(connections), dpop=dpop, deadline_s=deadline_s
        )
        self._mode: Mode = mode
        self._peers = {name: Connection(address) for name, address in (peers or {}).items()}
        self._on_user = on_user
        self._reports = reports
        self._timeout_s = timeout_s
        self.tools: list[tools.Declared] = []

    @property
    def origin(self) -> str:
        return self._broker.origin

    @property
    def connections(self) -> Mapping[str, Connection]:
        return self._broker.connections

    def _tell(self, error: CabError, user: Assertion | None) -> Any:
        """What `on_user` gives, to be awaited perhaps."""
        if isinstance(error, ConfirmationNeeded):
            self._make_wait(error, user)
        return self._on_user(error) if self._on_user is not None and isinstance(error, NeedsUser) else None

    def _declare(self, function: Callable[..., Any], action: str, calls: bool, **how: Any) -> tools.Declared:  # noqa: FBT001
        declared = tools.declare(function, action, calls=calls, connections=self._broker.connections, **how)
        self.tools.append(declared)
        return declared

    def _mistakes(self, listed: Sequence[Mapping[str, Any]]) -> list[str]:
        """What `GET /tools` does not agree with, by tool."""
        by_action = {str(tool.get("action")): tool for tool in listed}
        found = []
        for tool in self.tools:
            name = tool.function.__name__
            known = by_action.get(tool.action)
            if known is None:
                found.append(f"{name}: the broker lists no {tool.action} for this agent")
                continue
            schema = known.get("input_schema")
            properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
            found += [f"{name}: {tool.action} knows no {one}" for one in tool.parameters if one not in properties]
            required = set(schema.get("required", ())) - {"id"} if isinstance(schema, dict) else set()
            found += [f"{name}: {tool.action} needs {one}" for one in sorted(required - set(tool.parameters))]
            if known.get("resource") != self._broker.connection(tool.on).resource:
                found.append(f"{name}: {tool.action} is no action of {tool.on}")
        return found

    def pending(self, text: str, *, assertion: User | None = None) -> ConfirmationNeeded:
        """The error that `to_json()` wrote, which can `wait()` again. The assertion is needed only where there is no code, and
        where the broker makes the call.
        """
        needed = ConfirmationNeeded.from_json(text)
        if needed.uri is not None and not needed.uri.startswith(f"{self.origin}/"):
            needed.uri = None  # whoever kept the text may have changed it: people are sent nowhere else
        self._make_wait(needed, as_assertion(assertion) if assertion is not None else current_assertion())
        return needed

    def _make_wait(self, needed: ConfirmationNeeded, user: Assertion | None) -> None:
        needed._waiting = lambda one, seconds: self._run(self._broker.wait(one, user, seconds), user)  # noqa: SLF001

    def _peer(self, client_id: str) -> Connection:
        try:
            return self._peers[client_id]
        except KeyError:
            raise Misconfigured("peer_unknown", parameter=client_id, description="Not among `peers`.") from None


def _result(called: CallResult) -> Any:
    """Raises: CallRejected. A tool that gave back nothing would look as if it had done something."""
    if not called.done:
        raise CallRejected(called.status, txn=called.txn)
    return called.result


def _system_of(permit: Permit) -> str:
    if permit.intent is None:
        raise ValueError(
            "this permit was made from no intent, so it is for no connection: give it to a client of yours"
        )
    return permit.intent.on


def _checked(mistakes: list[str]) -> None:
    if mistakes:
        raise Misconfigured("tools_do_not_match", description="; ".join(mistakes))


class Agent(_AgentBase):
    """An agent, or the tool server that acts for it, in threads. Safe under them; keeps no token between calls."""

    @cached_property
    def _driver(self) -> SyncDriver:
        return SyncDriver()

    def permit(
        self,
        intent: Intent,
        *,
        assertion: User | None = None,
        deferred: bool = False,
        rejected: Permit | None = None,
    ) -> Permit:
        """A token for this intent. `deferred`: a question to the user comes with a code that outlives the assertion.
        `rejected`: the permit whose token the platform has just refused, to get another.

        Raises: what `errors.py` lists.
        """
        user = assertion_of(assertion)
        return self._run(self._broker.exchange(user, intent, deferred=deferred, rejected=rejected), user)

    def _run(self, flow: Flow[R], user: Assertion | None) -> R:
        try:
            return self._driver.run(flow)
        except CabError as error:
            self._tell(error, user)
            raise error.with_traceback(None) from None

    @contextmanager
    def acting(
        self,
        action: str,
        *,
        on: str,
        identifier: str,
        parameters: Mapping[str, Scalar] | None = None,
        reason: str | None = None,
        assertion: User | None = None,
    ) -> Iterator[AuthorizedClient]:
        """A client that may do this one thing for as long as the block lasts. A second action needs a second block."""
        intent = Intent(action, on=on, identifier=identifier, parameters=dict(parameters or {}), reason=reason)
        with self.using(self.permit(intent, assertion=assertion), assertion=assertion) as http:
            yield http

    @contextmanager
    def using(self, permit: Permit, *, assertion: User | None = None) -> Iterator[AuthorizedClient]:
        """A client for a permit that you have, for as long as the block lasts; the permit ends with it.

        The user, where one is given or current, is for another token when the platform refuses this one.
        """
        base = self._broker.connection(_system_of(permit)).api_base
        user = as_assertion(assertion) if assertion is not None else current_assertion()

        def renew(rejected: Permit) -> Permit | None:
            assert user is not None  # noqa: S101 - else nobody is given this
            return self._run(self._broker.renew(user, rejected, reports=self._reports), user)

        failed = True  # what a block did with the token itself, which has failed, nobody knows
        http = AuthorizedClient(permit, base_url=base, timeout_s=self._timeout_s, renew=renew if user else None)
        try:
            with http:
                yield http
            failed = False
        finally:
            try:
                if self._reports:
                    self.report(
                        http.permit, outcome_of(http.last_status, used=http.sent or failed), status=http.last_status
                    )
            finally:
                http.permit.drop()

    def report(self, permit: Permit, outcome: str, *, status: int | None = None) -> None:
        """Tell the broker what came of the token: `done`, `rejected`, `failed`, `not_used` or `unknown`.

        Failing to tell fails nothing else: the record then says that nobody knows.
        """
        try:
            self._driver.run(self._broker.report(Secret(permit.reveal()), outcome, status=status, txn=permit.txn))
        except CabError:
            return

    def call(
        self,
        intent: Intent,
        *,
        assertion: User | None = None,
        call_id: str | None = None,
        deferred: bool = False,
    ) -> CallResult:
        """Have the broker do it: the agent holds no token of the system. Raises also: OutcomeUnknown."""
        user = assertion_of(assertion)
        return self._run(self._broker.call(user, intent, call_id=call_id, deferred=deferred), user)

    def tool(
        self,
        action: str,
        *,
        on: str,
        identifier: str,
        parameters: Sequence[str] | Mapping[str, str] = (),
        undeclared: Sequence[str] = (),
        mode: Mode | None = None,
        pause: Pause | None = None,
    ) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """A function as a tool that declares what it does, from its arguments, before its first line runs.

        `identifier` may hold `{argument}`; `parameters` names the arguments that the intent shows, or maps the intent's names
        to them; every other argument must be named in `undeclared`. The function's client parameter is ours to give and is in
        no schema. `mode="call"`: the broker makes the call, the body never runs, the tool returns the platform's
        result or raises CallRejected.
        `pause` is called when the user must do something, before trying again; without it the error is raised.
        """
        calls = (mode or self._mode) == "call"

        def decorate(function: Callable[..., R]) -> Callable[..., R]:
            how = {"on": on, "identifier": identifier, "parameters": parameters, "undeclared": undeclared}
            declared = self._declare(function, action, calls, asynchronous=False, **how)

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                bound = declared.bound(args, kwargs)
                intent = declared.intent(bound.arguments)
                if calls:
                    return _result(self._pausing(lambda: self.call(intent), pause))
                with self.using(self._pausing(lambda: self.permit(intent), pause)) as http:
                    return function(*bound.args, **bound.kwargs, **{str(declared.client): http})

            tools.dress(wrapper, declared)
            return wrapper

        return decorate

    @staticmethod
    def _pausing(attempt: Callable[[], R], pause: Pause | None) -> R:
        for _ in range(_PAUSES if pause else 0):
            try:
                return attempt()
            except NeedsUser as needed:
                assert pause is not None  # noqa: S101 - the loop's condition
                pause(needed)
        return attempt()

    def call_token(self, *, assertion: User | None = None) -> Permit:
        """A token for the broker's own tools, at `ORIGIN/mcp`, for an MCP client of yours. `call` gets its own."""
        return self._driver.run(self._broker.call_token(assertion_of(assertion)))

    def check(self, *, assertion: User | None = None) -> None:
        """Compare every tool with `GET /tools`, which lists the actions that the broker can call. Raises: Misconfigured."""
        _checked(self._mistakes(self._driver.run(self._broker.tools(assertion_of(assertion)))))

    def delegate(self, may_act: str, *, task: Task | None = None, assertion: User | None = None) -> Assertion:
        """An assertion for another agent, never wider or longer than this one's."""
        return self._driver.run(self._broker.delegate(assertion_of(assertion), may_act=may_act, task=task))

    @contextmanager
    def to(self, client_id: str, *, task: Task | None = None, assertion: User | None = None) -> Iterator[PeerClient]:
        """An httpx2 client to another agent, among `peers`, that carries an assertion handed on to it in `CAB-Assertion`."""
        peer = self._peer(client_id)
        handed_on = self.delegate(client_id, task=task, assertion=assertion)
        with PeerClient(handed_on, base_url=peer.api_base, timeout_s=self._timeout_s) as http:
            yield http

    def close(self) -> None:
        self._driver.close()


class AsyncAgent(_AgentBase):
    """`Agent` for asyncio."""

    @cached_property
    def _driver(self) -> AsyncDriver:
        return AsyncDriver()

    async def permit(
        self,
        intent: Intent,
        *,
        assertion: User | None = None,
        deferred: bool = False,
        rejected: Permit | None = None,
    ) -> Permit:
        """See `Agent.permit`."""
        user = assertion_of(assertion)
        return await self._run(self._broker.exchange(user, intent, deferred=deferred, rejected=rejected), user)

    async def _run(self, flow: Flow[R], user: Assertion | None) -> R:
        try:
            return await self._driver.run(flow)
        except CabError as error:
            telling = self._tell(error, user)
            if inspect.isawaitable(telling):
                await telling
            raise error.with_traceback(None) from None

    @asynccontextmanager
    async def acting(
        self,
        action: str,
        *,
        on: str,
        identifier: str,
        parameters: Mapping[str, Scalar] | None = None,
        reason: str | None = None,
        assertion: User | None = None,
    ) -> AsyncIterator[AsyncAuthorizedClient]:
        """See `Agent.acting`."""
        intent = Intent(action, on=on, identifier=identifier, parameters=dict(parameters or {}), reason=reason)
        async with self.using(await self.permit(intent, assertion=assertion), assertion=assertion) as http:
            yield http

    @asynccontextmanager
    async def using(self, permit: Permit, *, assertion: User | None = None) -> AsyncIterator[AsyncAuthorizedClient]:
        """See `Agent.using`."""
        base = self._broker.connection(_system_of(permit)).api_base
        user = as_assertion(assertion) if assertion is not None else current_assertion()

        async def renew(rejected: Permit) -> Permit | None:
            assert user is not None  # noqa: S101 - else nobody is given this
            return await self._run(self._broker.renew(user, rejected, reports=self._reports), user)

        failed = True
        http = AsyncAuthorizedClient(permit, base_url=base, timeout_s=self._timeout_s, renew=renew if user else None)
        try:
            async with http:
                yield http
            failed = False
        finally:
            try:
                if self._reports:
                    outcome = outcome_of(http.last_status, used=http.sent or failed)
                    await self.report(http.permit, outcome, status=http.last_status)
            finally:  # a task that was cancelled is perhaps not left to report
                http.permit.drop()

    async def report(self, permit: Permit, outcome: str, *, status: int | None = None) -> None:
        """See `Agent.report`."""
        try:
            await self._driver.run(self._broker.report(Secret(permit.reveal()), outcome, status=status, txn=permit.txn))
        except CabError:
            return

    async def call(
        self,
        intent: Intent,
        *,
        assertion: User | None = None,
        call_id: str | None = None,
        deferred: bool = False,
    ) -> CallResult:
        """See `Agent.call`."""
        user = assertion_of(assertion)
        return await self._run(self._broker.call(user, intent, call_id=call_id, deferred=deferred), user)

    def tool(
        self,
        action: str,
        *,
        on: str,
        identifier: str,
        parameters: Sequence[str] | Mapping[str, str] = (),
        undeclared: Sequence[str] = (),
        mode: Mode | None = None,
        pause: Pause | None = None,
    ) -> Callable[[Callable[..., Awaitable[R]]], Callable[..., Coroutine[Any, Any, R]]]:
        """See `Agent.tool`. `pause` may be asynchronous."""
        calls = (mode or self._mode) == "call"

        def decorate(function: Callable[..., Awaitable[R]]) -> Callable[..., Coroutine[Any, Any, R]]:
            how = {"on": on, "identifier": identifier, "parameters": parameters, "undeclared": undeclared}
            declared = self._declare(function, action, calls, asynchronous=True, **how)

            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                bound = declared.bound(args, kwargs)
                intent = declared.intent(bound.arguments)
                if calls:
                    return _result(await self._pausing(lambda: self.call(intent), pause))
                async with self.using(await self._pausing(lambda: self.permit(intent), pause)) as http:
                    return await function(*bound.args, **bound.kwargs, **{str(declared.client): http})

            tools.dress(wrapper, declared)
            return wrapper

        return decorate

    @staticmethod
    async def _pausing(attempt: Callable[[], Awaitable[R]], pause: Pause | None) -> R:
        for _ in range(_PAUSES if pause else 0):
            try:
                return await attempt()
            except NeedsUser as needed:
                assert pause is not None  # noqa: S101 - the loop's condition
                waiting = pause(needed)
                if isinstance(waiting, Awaitable):
                    await waiting
        return await attempt()

    async def call_token(self, *, assertion: User | None = None) -> Permit:
        """See `Agent.call_token`."""
        return await self._driver.run(self._broker.call_token(assertion_of(assertion)))

    async def check(self, *, assertion: User | None = None) -> None:
        """See `Agent.check`."""
        _checked(self._mistakes(await self._driver.run(self._broker.tools(assertion_of(assertion)))))

    async def delegate(self, may_act: str, *, task: Task | None = None, assertion: User | None = None) -> Assertion:
        """See `Agent.delegate`."""
        return await self._driver.run(self._broker.delegate(assertion_of(assertion), may_act=may_act, task=task))

    @asynccontextmanager
    async def to(
        self, client_id: str, *, task: Task | None = None, assertion: User | None = None
    ) -> AsyncIterator[AsyncPeerClient]:
        """See `Agent.to`."""
        peer = self._peer(client_id)
        handed_on = await self.delegate(client_id, task=task, assertion=assertion)
        async with AsyncPeerClient(handed_on, base_url=peer.api_base, timeout_s=self._timeout_s) as http:
            yield http

    async def aclose(self) -> None:
        await self._driver.aclose()

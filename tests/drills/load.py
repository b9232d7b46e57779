"""Agents and a front end that never stop asking, and what the record says of them afterwards.

Each of several connections goes round: an assertion is minted, a token of a platform and one of the broker are asked for, the
broker's is shown to the warehouse, which verifies it, something is asked that must be refused, and a call is made. Whoever is
answered `temporarily_unavailable`, or not at all, repeats as docs/api.md says. Afterwards every answer is compared with
the audit rows of its transaction: none refused that should not be, none lost, none doubled.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from tests.e2e.audit_rows import TODAY, query
from tests.e2e.caller import Caller
from tests.running_stack import Stack

from cab.domain.identifiers import token_sha256

AGENT: Final = "sales-assistant"
USER: Final = "bob"  # alice is for what happens to a person meanwhile
ATTEMPTS: Final = 40  # of one request, each after the pause that was asked for
WAIT_S: Final = 120.0
GONE: Final = "gone"  # no answer: the connection broke
ISSUED: Final = "issued"
_MORE_OFTEN_S: Final = 1.0  # the pause after no answer at all
_LOOK_AGAIN_S: Final = 4.0  # for rows that BigQuery does not have yet; then twice as long, as each look costs it much


@dataclass(frozen=True)
class Attempt:
    """One request: the answer's status (0 for none) and what it said."""

    status: int
    said: str


@dataclass
class Asked:
    """What was wanted of the broker, until it was answered."""

    kind: str
    expected: str
    attempts: list[Attempt] = field(default_factory=list)
    txn: str | None = None
    token_sha256: str | None = None

    @property
    def said(self) -> str:
        return self.attempts[-1].said

    @property
    def lost(self) -> int:
        """Attempts that may be on record though nobody heard of them."""
        return sum(attempt.said == GONE for attempt in self.attempts)


KINDS: Final[Mapping[str, tuple[str, str]]] = {
    # name: event type, action
    "mint": ("assertion.minted", ""),
    "platform": ("exchange.decided", "crm.opportunity.list"),
    "broker": ("exchange.decided", "warehouse.query.run"),
    "refused": ("exchange.decided", "tracker.task.create"),
    "call": ("exchange.decided", "crm.opportunity.read"),
}


class Load:
    """Runs in a thread of its own from `start` to `stop`."""

    def __init__(self, stack: Stack, *, connections: int = 2, pause_s: float = 2.5, calls: bool = True) -> None:
        self.stack = stack
        self.asked: list[Asked] = []
        self.unverified: list[str] = []  # broker's tokens that the warehouse did not take, and why
        self.told_to_repeat = 0
        self._calls = calls
        self._connections = connections
        self._pause_s = pause_s
        self._ending = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        caller = Caller(stack, AGENT)
        self._caller = caller
        self._id_token = stack.front_end.id_token(USER)
        self._call_token = stack.agent(AGENT).call_token(assertion=caller.assertion(USER)).reveal() if calls else ""

    # --- running it ---

    def start(self) -> None:
        self._thread.start()

    def until(self, number: int) -> None:
        """Wait until so many were answered in all."""
        self._wait(lambda: len(self.asked) >= number)

    def each_kind(self) -> None:
        """Wait until one more of each kind has begun after now and was answered."""
        self._more_of_each(self._connections + 1)  # as many as may be under way now, and one

    def _more_of_each(self, number: int) -> None:
        before = Counter(asked.kind for asked in self.asked)
        kinds = KINDS.keys() if self._calls else KINDS.keys() - {"call"}

        def all_more() -> bool:
            now = Counter(asked.kind for asked in self.asked)
            return all(now[kind] >= before[kind] + number for kind in kinds)

        self._wait(all_more)

    def until_told_to_repeat(self) -> None:
        """Wait until somebody was told to come back."""
        before = self.told_to_repeat
        self._wait(lambda: self.told_to_repeat > before)

    def once_more(self) -> None:
        """Wait until each kind was answered once more."""
        self._more_of_each(1)

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self._failed is None, self._failed
            assert time.monotonic() < deadline, f"too few answers in time; the last: {self.asked[-3:]}"
            time.sleep(0.01)

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "requests are still not answered"
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # noqa: BLE001 - told by whoever waits
            self._failed = error

    async def _all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout) as http, asyncio.TaskGroup() as group:
            for _ in range(self._connections):
                group.create_task(self._connection(http))

    async def _connection(self, http: aiohttp.ClientSession) -> None:
        while not self._ending.is_set():
            await self._round(http)
            await asyncio.sleep(self._pause_s)

    # --- one round ---

    async def _round(self, http: aiohttp.ClientSession) -> None:
        origin, front_end = self.stack.file.origin, self.stack.front_end
        minted = await self._until_answered(
            http, "mint", f"{origin}/edge/token", lambda: front_end.mint_form(self._id_token, agent=AGENT)
        )
        if minted is None:
            return
        assertion = str(minted["access_token"])
        wanted: tuple[tuple[str, str, dict[str, str]], ...] = (
            ("platform", "opportunity/*", {"account": "acme"}),
            ("broker", "query/acme_history", {}),
            ("refused", "task/*", {"title": "Call"}),
        )
        for kind, identifier, parameters in wanted:
            answer = await self._exchange(http, kind, assertion, identifier, parameters)
            if kind == "broker" and answer is not None:
                await self._show(http, str(answer["access_token"]))
        if self._calls:
            await self._call(http)

    async def _exchange(
        self, http: aiohttp.ClientSession, kind: str, assertion: str, identifier: str, parameters: Mapping[str, str]
    ) -> dict[str, Any] | None:
        _, action = KINDS[kind]

        def form() -> dict[str, str]:
            return self._caller.exchange_form(assertion, action, identifier, **parameters)

        expected = "intent_outside_task" if kind == "refused" else ISSUED
        return await self._until_answered(http, kind, f"{self.stack.file.origin}/oauth2/token", form, expected=expected)

    async def _call(self, http: aiohttp.ClientSession) -> None:
        url, headers = f"{self.stack.file.origin}/tools/call", {"Authorization": f"Bearer {self._call_token}"}
        body = {"tool": "crm_opportunity_read", "arguments": {"id": "0062"}}
        await self._until_answered(http, "call", url, lambda: body, expected="done", headers=headers)

    async def _show(self, http: aiohttp.ClientSession, token: str) -> None:
        url = f"{self.stack.file.connections['warehouse'].resource}/query"
        headers = {"Authorization": f"Bearer {token}"}
        async with http.post(url, json={"query": "acme_history"}, headers=headers) as answer:
            if answer.status != 200:
                self.unverified.append(f"{answer.status} {await answer.text()}")

    async def _until_answered(
        self,
        http: aiohttp.ClientSession,
        kind: str,
        url: str,
        body: Callable[[], dict[str, Any]],
        *,
        expected: str = ISSUED,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any] | None:
        """The content of the last answer, when it is what was expected. Each attempt is signed anew."""
        asked = Asked(kind, expected)
        content: dict[str, Any] = {}
        for _ in range(ATTEMPTS):
            sent = {"json": body()} if kind == "call" else {"data": body()}
            try:
                async with http.post(url, headers=headers, **sent) as answer:  # type: ignore[arg-type]
                    content = await answer.json()
                    status, pause = answer.status, answer.headers.get("Retry-After")
                    asked.txn = answer.headers.get("CAB-Txn")
            except (aiohttp.ClientConnectionError, TimeoutError):
                asked.attempts.append(Attempt(0, GONE))
                await asyncio.sleep(_MORE_OFTEN_S)
                continue
            said = ISSUED if "access_token" in content else str(content.get("outcome") or content.get("reason_code"))
            asked.attempts.append(Attempt(status, said))
            if content.get("error") != "temporarily_unavailable" or pause is None:
                break
            self.told_to_repeat += 1
            await asyncio.sleep(int(pause))
        if asked.said == ISSUED:
            asked.token_sha256 = token_sha256(content["access_token"])
        self.asked.append(asked)
        return content if asked.said == expected else None

    # --- what came of it ---

    def violations(self) -> list[str]:
        """What must not be, after `stop`. Empty when every promise was kept."""
        broken = [f"{one.kind} ended with {one.said}" for one in self.asked if one.said != one.expected]
        broken += [f"{one.kind} was answered {attempt}" for one in self.asked for attempt in one.attempts
                   if attempt.status not in (0, 200, 400, 429, 503)]  # fmt: skip
        broken += [f"a token of the broker was not accepted: {why}" for why in self.unverified]
        return broken + self._differences()

    def _differences(self) -> list[str]:
        """Between what callers were told and what the record says."""
        told: Counter[tuple[str | None, str, str]] = Counter()
        for one in self.asked:
            told[one.txn, one.kind, one.token_sha256 or one.said] += 1
        kind_of = {events_and_action: kind for kind, events_and_action in KINDS.items()}
        rows: list[dict[str, Any]] = []

        def recorded() -> Counter[tuple[str | None, str, str]]:
            found: Counter[tuple[str | None, str, str]] = Counter()
            for row in rows:
                kind = kind_of.get((row["event_type"], row["action"] or ""), "other")
                what = "done" if kind == "call" else row["sha256"] or row["reason_code"]
                found[row["txn"], kind, what] += 1
            return found

        pause_s, moved_at = _LOOK_AGAIN_S, time.monotonic()
        while (not rows or told - recorded()) and time.monotonic() < moved_at + WAIT_S:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 30)
            before, rows[:] = len(rows), self._rows()
            if len(rows) > before:  # the local BigQuery takes some ten a second
                moved_at = time.monotonic()
        missing = [f"{kind} {txn}, answered {said}, is not on record" for txn, kind, said in told - recorded()]
        return missing + list(self._unaccounted(recorded() - told))

    def _unaccounted(self, more: Counter[tuple[str | None, str, str]]) -> Iterator[str]:
        """Decisions on record that nobody was told of: only requests whose answer broke off, or was a 503, may leave one."""
        lost: Counter[str] = Counter()
        for one in self.asked:
            lost[one.kind] += len(one.attempts) - 1
        for (txn, kind, said), count in more.items():
            if kind in KINDS and count > (covered := min(count, lost[kind])):
                yield f"{kind} {txn} is on record {count - covered} times more than it was answered ({said})"
            lost[kind] -= count

    def _rows(self) -> list[dict[str, Any]]:
        """One for each event, as the view `events` shows: a message that came twice has two in the table."""
        sql = (
            "SELECT txn, event_type, action, reason_code, token.sha256 AS sha256, event_id FROM cab_audit.events_raw "
            f"WHERE {TODAY} AND event_type IN ('assertion.minted', 'exchange.decided')"
        )
        ours = {one.txn for one in self.asked}
        of_calls = {
            one.txn for one in self.asked if one.kind == "call"
        }  # their one assertion was minted before the load
        minted = KINDS["mint"][0]
        return [
            row
            for row in {row["event_id"]: row for row in query(self.stack, sql)}.values()
            if row["txn"] in ours and not (row["txn"] in of_calls and row["event_type"] == minted)
        ]

    def __str__(self) -> str:
        kinds = Counter(asked.kind for asked in self.asked)
        repeated = Counter(attempt.said for one in self.asked for attempt in one.attempts[:-1])
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        again = ", ".join(f"{count} {said}" for said, count in sorted(repeated.items())) or "none"
        return f"{len(self.asked)} requests ({counted}); repeated: {again}"

    @property
    def repeated(self) -> Counter[str]:
        """Answers after which a caller had to repeat."""
        return Counter(attempt.said for one in self.asked for attempt in one.attempts[:-1])


@contextmanager
def load(stack: Stack, **options: Any) -> Iterator[Load]:
    """Under way, each kind answered; it ends with the block, after each kind was answered once more."""
    running = Load(stack, **options)
    running.start()
    try:
        running.once_more()
        yield running
        running.each_kind()
    finally:
        running.stop()

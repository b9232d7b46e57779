"""One call on its way to a platform: what is sent, what is sent once more, and what then can be said of it.

The rule of repetition: once, and only what cannot have been done, or does no harm when it is done twice. Whatever is not sure
to have been done, or not done, is `unknown`; never the opposite of what happened.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from cab.domain.audit import CallOutcome
from cab.domain.calls.rendering import RenderedCall
from cab.domain.configured.actions import Effect
from cab.domain.errors import BrokerError, Reason
from cab.ports import AnswerTooLarge, CallRefused, HttpAnswer, HttpSender, SendFailed, Unavailable
from cab.use_cases.calls.answers import MAX_WIRE_BYTES, AnswerRefused, echoes, too_large
from cab.values import immutable

LONGEST_PAUSE_S: Final = 2  # a platform that asks for more is not waited for
SHORTEST_TRY_S: Final = 0.2  # with less time left, nothing is begun


class _Again(Enum):
    """Why something may be sent once more."""

    NEVER_SENT = auto()
    OTHER_TOKEN = auto()
    SOON = auto()
    LOST = auto()


@immutable
class Sendable:
    """A rendered call with what the catalog says of its sending. `headers` are complete but for the token."""

    request: RenderedCall
    headers: dict[str, str]
    effect: Effect
    is_keyed: bool  # the platform does it once for one key, however often it is sent
    timeout_s: float
    success: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Sendable({self.request.method}, {self.effect})"  # its headers and body are nobody's business


@immutable
class Executed:
    """What came of it. `answer` is there whenever the platform gave one that may be looked at; `refusal` is why it may not."""

    outcome: CallOutcome
    attempts: int
    answer: HttpAnswer | None = None
    status: int | None = None
    refusal: BrokerError | None = None
    token_refused: bool = False  # the platform's last word was 401
    interrupted: bool = False  # this process stopped before the platform answered
    latency_ms: float = 0.0


FreshToken = Callable[[], Awaitable[str]]
"""Another token in place of the one that the platform refused; maybe the same. Raises: BrokerError, Unavailable."""


@immutable
class _Judged:
    outcome: CallOutcome
    again: _Again | None = None
    pause_s: float = 0.0


_Met = HttpAnswer | AnswerTooLarge | SendFailed | CallRefused


class Execute:
    """`reads` may share connections; `writes` must open one for each, so that none is lost on a connection already closed."""

    def __init__(self, reads: HttpSender, writes: HttpSender) -> None:
        self._reads = reads
        self._writes = writes

    async def __call__(self, call: Sendable, token: str, fresh_token: FreshToken) -> Executed:
        """Send it, at most `timeout_s` in all beside the time another token takes. Raises nothing.

        Cancelling it means that the process ends: what can be said of the call then is said.
        """
        # Not by the loop's clock: it counts whole milliseconds.
        started, attempts = time.perf_counter(), [0]
        try:
            executed = await self._through(call, token, fresh_token, attempts)
        except asyncio.CancelledError:
            executed = Executed("unknown", attempts[0], interrupted=True)
        return replace(executed, latency_ms=(time.perf_counter() - started) * 1000)

    async def _through(self, call: Sendable, token: str, fresh_token: FreshToken, attempts: list[int]) -> Executed:
        now = asyncio.get_running_loop().time
        ends_at = now() + call.timeout_s
        in_doubt = False
        repeated: set[_Again] = set()
        while True:
            attempts[0] += 1
            met = await self._send(call, token, ends_at - now())
            judged = _judge(call, met)
            executed = _executed(judged.outcome, met, attempts[0])
            if echoes(_words(met), token):
                executed = replace(executed, answer=None, refusal=_echoed())
                with suppress(BrokerError, Unavailable):
                    await fresh_token()  # the echoed one is compromised
                break
            if judged.again is None or judged.again in repeated or executed.refusal is not None:
                break
            if judged.again is _Again.OTHER_TOKEN:
                asked_at, other = now(), await _other(fresh_token)
                ends_at += now() - asked_at
                if isinstance(other, BrokerError):
                    executed = replace(executed, refusal=other)
                    break
                if other == token:
                    break
                token = other
            if ends_at - now() < judged.pause_s + SHORTEST_TRY_S:
                break
            repeated.add(judged.again)
            in_doubt = in_doubt or executed.outcome == "unknown"
            await asyncio.sleep(judged.pause_s)
        if in_doubt and executed.outcome != "done":
            # An earlier one may have been done, whatever the platform says of the later one.
            executed = replace(executed, outcome="unknown", token_refused=False)
        return executed

    async def _send(self, call: Sendable, token: str, timeout_s: float) -> _Met:
        sender = self._reads if call.effect is Effect.READ else self._writes
        try:
            return await sender.send(
                call.request.method,
                call.request.url,
                body=call.request.body,
                headers=call.headers | {"Authorization": f"Bearer {token}"},
                timeout_s=timeout_s,
                max_bytes=MAX_WIRE_BYTES,
            )
        except (SendFailed, AnswerTooLarge, CallRefused) as error:
            return error


async def _other(fresh_token: FreshToken) -> str | BrokerError:
    try:
        return await fresh_token()
    except BrokerError as error:
        return error
    except Unavailable:
        return BrokerError(Reason.PROVIDER_UNAVAILABLE, "The platform refused the token, and no other is available.")


def _executed(outcome: CallOutcome, met: _Met, attempts: int) -> Executed:
    if isinstance(met, CallRefused):
        return Executed(outcome, attempts, status=met.status, refusal=met.refusal)
    if isinstance(met, SendFailed):
        return Executed(outcome, attempts)
    if isinstance(met, AnswerTooLarge):
        refusal = too_large(met.size).error() if outcome == "done" else None
        return Executed(outcome, attempts, status=met.status, refusal=refusal)
    refusal = None
    if 300 <= met.status < 400:
        refused = AnswerRefused(
            Reason.REDIRECT_REFUSED, "The platform wants the call to go elsewhere. It was not followed."
        )
        refusal = refused.error()
    return Executed(outcome, attempts, met, met.status, refusal, token_refused=met.status == 401)


def _words(met: _Met) -> HttpAnswer:
    """What the platform said that somebody may be told: its answer, or the page that it wants opened."""
    if isinstance(met, HttpAnswer):
        return met
    page = met.refusal.remedy.interaction_uri if isinstance(met, CallRefused) else None
    return HttpAnswer(0, {}, (page or "").encode())


def _judge(call: Sendable, met: _Met) -> _Judged:
    reads = call.effect is Effect.READ
    doubtful = _Judged("failed" if reads else "unknown")
    may_repeat = reads or call.is_keyed
    if isinstance(met, CallRefused):
        return _Judged("not_sent" if met.status is None else "rejected")
    if isinstance(met, HttpAnswer) and met.said is not None:
        return _Judged("rejected") if met.said == "no" else doubtful
    if isinstance(met, SendFailed):
        if not met.may_have_arrived:
            return _Judged("not_sent", _Again.NEVER_SENT)
        return replace(doubtful, again=_Again.LOST) if may_repeat else doubtful
    status, wait = met.status, None if isinstance(met, AnswerTooLarge) else met.retry_after_s
    if status is None:
        return doubtful
    if _succeeded(call, status):
        return _Judged("done")
    if status == 401:
        return _Judged("rejected", _Again.OTHER_TOKEN)
    soon = wait is not None and wait <= LONGEST_PAUSE_S
    if status == 429 or (status == 503 and reads and wait is not None):
        return _Judged("rejected", _Again.SOON if reads and soon else None, float(wait or 0))
    if status >= 500 and may_repeat and (wait is None or soon):
        return replace(doubtful, again=_Again.LOST, pause_s=float(wait or 0))
    return _Judged("rejected") if 400 <= status < 500 else doubtful


def _succeeded(call: Sendable, status: int) -> bool:
    """By what the catalog declares, of the 200s; all of them where it declares nothing."""
    return status in call.success if call.success else 200 <= status < 300


def _echoed() -> BrokerError:
    return BrokerError(
        Reason.SECRET_ECHOED, "The platform's answer holds the user's token. It is withheld, and the token is replaced."
    )

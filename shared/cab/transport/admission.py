"""How much one process takes on. What is more than it can answer soon is refused at once, before anybody looks at it.

A process under more load than it can carry would otherwise answer everybody late: what waits grows with every second, and
callers that give up and come back make it longer. So requests begin in their order, a few in each turn of the event loop, and
what is under way is finished first. How long the oldest has waited to begin, and how long a turn takes, tell how far behind
the process is, whatever its requests wait for elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from cab.domain.errors import BrokerError, Reason, Remedy
from cab.ports import Randomness
from cab.protocol.oauth_errors import error_headers, status_of
from cab.transport.page_problems import words_for
from cab.transport.requests import NO_STORE, refusal_response
from cab.use_cases.audit.auditor import log_bug

MOST_IN_PROCESS: Final = 512
OLDEST_S: Final = 0.5  # while one has waited longer to begin, or a newcomer would, nobody joins the queue
TOO_OLD_S: Final = 1.0  # who has waited longer is not begun any more
BEGUN_PER_TURN: Final = 8  # a longer turn begins no more: whoever is refused waits for the turn to end
RETRY_AFTER_S: Final = (1, 2, 3)  # in turn, so that those who were refused together do not come back together
_TOLD_EVERY_S: Final = 10.0

Handler = Callable[[Request], Awaitable[Response]]
_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)


class Admission:
    """Belongs to the event loop of its first request. `most` are in the process at once. `now` counts seconds."""

    def __init__(self, *, most: int = MOST_IN_PROCESS, now: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._now = now
        self._in_process = 0
        self._begun = 0  # in this turn of the loop
        self._waiting: deque[tuple[float, int, asyncio.Future[None]]] = deque()  # since when, behind how many, its turn
        self._turn_s = 0.0  # how long a turn takes, as whoever began last has found
        self._refused = 0
        self._untold = 0
        self._told_at: float | None = None

    async def run(self, work: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Do the work in its turn. Raises: BrokerError OVERLOADED, without having begun it; what the work raises."""
        if self._in_process >= self._most or self._is_behind():
            raise self._refusal()
        self._in_process += 1
        try:
            if self._begun >= BEGUN_PER_TURN or self._waiting:
                await self._wait()
            else:
                self._begin()
            return await work()
        finally:
            self._in_process -= 1

    def _is_behind(self) -> bool:
        return bool(self._waiting) and is_behind(
            len(self._waiting), oldest_s=self._now() - self._waiting[0][0], turn_s=self._turn_s
        )

    async def _wait(self) -> None:
        came_at = self._now()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((came_at, len(self._waiting), turn))
        await turn
        if self._now() - came_at > TOO_OLD_S:
            raise self._refusal()

    def _begin(self) -> None:
        if self._begun == 0:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._begun += 1

    def _next_turn(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < BEGUN_PER_TURN:
            came_at, before, turn = self._waiting.popleft()
            self._turn_s = (self._now() - came_at) / _turns_behind(before)
            if not turn.done():  # its caller has gone away
                self._begin()
                turn.set_result(None)

    def _refusal(self) -> BrokerError:
        self._refused += 1
        self._untold += 1
        now = self._now()
        if self._told_at is None or now - self._told_at >= _TOLD_EVERY_S:
            _log.warning("overloaded: %d requests refused unread since the last such line", self._untold)
            self._told_at, self._untold = now, 0
        retry_after_s = RETRY_AFTER_S[self._refused % len(RETRY_AFTER_S)]
        return BrokerError(
            Reason.OVERLOADED, "Too much at once. Nothing was done.", remedy=Remedy(retry_after_s=retry_after_s)
        )


def is_behind(waiting: int, *, oldest_s: float, turn_s: float) -> bool:
    """Whether the first of so many who wait has waited too long to begin, or a newcomer would."""
    return oldest_s > OLDEST_S or _turns_behind(waiting) * turn_s > OLDEST_S


def _turns_behind(number: int) -> int:
    return number // BEGUN_PER_TURN + 1


def admitted(handle: Handler, admission: Admission, randomness: Randomness) -> Handler:
    """The handler of a function, with what is too much refused in front of it, and a fault that it does not catch answered.

    Probes of its health always pass.
    """

    async def take_on(request: Request) -> Response:
        if request.scope["path"] == "/health":
            return await handle(request)
        try:
            return await admission.run(lambda: handle(request))
        except BrokerError as refusal:  # the handler's own refusals have become answers in it
            return _answer(request, refusal, txn=randomness.token(16))
        except Exception as error:  # noqa: BLE001  # a bug: who stands behind would write its text into the log
            txn = randomness.token(16)
            log_bug(error, txn=txn)
            return _answer(request, BrokerError(Reason.INTERNAL_ERROR), txn=txn)

    return take_on


def _answer(request: Request, refusal: BrokerError, *, txn: str) -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        return refusal_response(refusal, txn=txn)
    text = "{}.\n{}\n".format(*words_for(refusal))  # a person's browser; a page would cost what we want to save
    headers = NO_STORE | {"CAB-Txn": txn} | error_headers(refusal)
    return Response(text, status_code=status_of(refusal.reason), media_type="text/plain", headers=headers)

"""What a resource says came of the tokens that it was sent: told to the broker beside the answers, never before them.

    reporter = OutcomeReporter("https://cab.acme.example", WorkloadIdentity())
    app = CabResource(app, ..., reporter=reporter)

The broker takes it from a client whose entry says `reports_as` for the resource (docs/api.md).
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from typing import Final

from cab_client.authorized import outcome_of
from cab_client.broker import Broker
from cab_client.credentials import ClientCredential
from cab_client.errors import CabError
from cab_client.resource import Caller
from cab_client.transport import SyncDriver
from cab_client.values import Secret

_THREADS: Final = 4
_DEADLINE_S: Final = 10.0
_REMEMBERED: Final = 10_000  # words on tokens; older ones have long ended
_LOG_PAUSE_S: Final = 60.0

log = logging.getLogger("cab_client.reports")


class OutcomeReporter:
    """Reports in a few threads of its own, started with the first report. Safe under threads and after a fork.

    At most `waiting` reports wait; what comes beyond, and what the broker does not take within ten seconds, is `lost`: counted,
    and logged once a minute. Of a token that is used again each different answer is reported once.
    """

    def __init__(self, origin: str, credential: ClientCredential, *, waiting: int = 1000) -> None:
        self._broker = Broker(origin, credential, deadline_s=_DEADLINE_S)
        self._driver = SyncDriver()
        self._waiting = waiting
        self._lock = threading.Lock()
        self._started_in: int | None = None
        self._queue: queue.Queue[tuple[Secret, Caller, str, int | None]] = queue.Queue(waiting)
        self._said: OrderedDict[tuple[str, str, int | None], None] = OrderedDict()
        self._logged_at: float | None = None
        self.lost = 0

    def tell(self, token: Secret, caller: Caller, status: int | None) -> None:
        """`status`: what was answered, None where the application came to no answer. Returns at once and raises nothing."""
        outcome = outcome_of(status, used=True)
        word = (str(caller.claims.get("jti")), outcome, status)
        with self._lock:
            if self._started_in != os.getpid():
                self._start()
            if word in self._said:
                return
            self._said[word] = None
            while len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)
        try:
            self._queue.put_nowait((token, caller, outcome, status))
        except queue.Full:
            self._lose("too_many_waiting", caller, word)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything so far is told or lost. False where that took longer."""
        with self._queue.all_tasks_done:
            return self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, timeout_s)

    def _start(self) -> None:
        if (
            self._started_in is not None
        ):  # in the child of a fork there are no threads, and what waited is the parent's to tell
            self._queue, self._started_in = queue.Queue(self._waiting), None
        for number in range(_THREADS):
            try:
                threading.Thread(target=self._work, name=f"cab-reports-{number}", daemon=True).start()
            except RuntimeError:  # no more threads here: fewer do it, or none until the next report
                return
            if number == 0:
                atexit.register(self.flush)
                self._started_in = os.getpid()

    def _work(self) -> None:
        waiting = self._queue
        while True:
            token, caller, outcome, status = waiting.get()
            try:
                self._driver.run(self._broker.report(token, outcome, status=status))
            except CabError as error:
                self._lose(error.reason_code, caller, (str(caller.claims.get("jti")), outcome, status))
            except Exception as error:  # noqa: BLE001 - a thread that ends would lose all the rest
                self._lose(type(error).__name__, caller, (str(caller.claims.get("jti")), outcome, status))
            finally:
                del token
                waiting.task_done()

    def _lose(self, why: str, caller: Caller, word: tuple[str, str, int | None]) -> None:
        with self._lock:
            self.lost += 1
            self._said.pop(word, None)  # may be said when the token is used again
            now = time.monotonic()
            if self._logged_at is not None and now < self._logged_at + _LOG_PAUSE_S:
                return
            self._logged_at = now
        log.warning("outcomes were not reported", extra={"cab": {"lost": self.lost, "why": why, "txn": caller.txn}})

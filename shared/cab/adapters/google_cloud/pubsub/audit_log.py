"""`AuditLog` on Pub/Sub: group commit, and no event forgotten, not even by a process that is killed.

At most two publishes are in flight, and two more where several events wait. Each carries everything that was queued when it started,
as few messages (`packing`); events that come meanwhile go together in the next one. A caller waits for the acknowledgement of the call
that carried its event, never for a timer. An event whose publish failed stays at the head of the queue, as the same bytes, and goes with
the next publish. If its caller withheld a token for it, what takes it back is queued behind it in the same moment.

Before a caller is told that its event was not acknowledged, that event and what takes it back are kept in a store: the
process may be killed, and nothing is sent by itself after an answer, when a function has no CPU. Whichever process of
whichever function publishes next sends what is kept there, its own or another's, and takes it off. So an event may be
published twice, as the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cab.adapters import spans
from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.adapters.google_cloud.pubsub.publisher import Message, PubSubPublisher
from cab.domain.audit import AuditEvent, EventType, SealedEvent, Service
from cab.ports import Clock, Randomness, Unavailable
from cab.use_cases.audit.packing import groups, pack
from cab.use_cases.audit.unsent import UnsentEvents

_logger = logging.getLogger(__name__)

_WHAT = "audit"
_BUDGET_S = 2.0
_KEEPING_BUDGET_S = 1.0  # what a caller waits more where publishing failed
_MAX_IN_FLIGHT = 2
_TOGETHER = 4  # events: with so many more publishes may begin, so that no fewer share a message for it
_MAX_IN_FLIGHT_TOGETHER = 4
_MAX_MESSAGES = 100
_MAX_BATCH_BYTES = 1_000_000
_MAX_UNACKNOWLEDGED = 1_000  # events in memory
_LOOK_EVERY = timedelta(seconds=30)


@dataclass(slots=True, eq=False)
class _Queued:
    """An event and the caller that waits for it, if one does.

    `has_failed`: a publish that carried it has. `if_withheld`: what takes it back, until that is queued. `settles`: the
    number in the chain that is settled with it: its own, or that of the event it takes back.
    """

    event: SealedEvent
    settles: int
    acknowledged: asyncio.Future[None] | None = None
    has_failed: bool = False
    is_given_up: bool = False  # its caller was told so, or is gone
    is_kept: bool = False  # in the store
    if_withheld: Callable[[], AuditEvent] | None = None

    def succeed(self) -> None:
        if self.acknowledged is not None and not self.acknowledged.done():
            self.acknowledged.set_result(None)


class PubSubAuditLog:
    """One per process: its events form one hash chain. Belongs to the event loop of its first call.

    `unsent` is None for a function that may write to no store: what it cannot publish waits in its memory alone.
    """

    def __init__(
        self,
        project: str,
        topic: str,
        *,
        service: str,
        revision: str,
        unsent: UnsentEvents | None,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._publisher = PubSubPublisher(project, what=_WHAT)
        self._topic = topic
        self._unsent = unsent
        self._clock = clock
        self._randomness = randomness
        self._service = Service(function=service, revision=revision)
        self._chain_of_process: AuditChain | None = None
        self._queue: deque[_Queued] = deque()
        self._open: dict[int, _Queued] = {}  # not acknowledged, by number: queued or in flight
        # By id: the numbers of events whose callers may take them back still, and until when.
        self._unanswered: dict[str, tuple[int, asyncio.Future[None]]] = {}
        self._left_to_store: int | None = None  # the lowest number that is only there
        self._in_flight: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()  # what no publish waits for
        self._looked_at: datetime | None = None
        self._is_closed = False

    @property
    def _chain(self) -> AuditChain:
        """Begun with the first event: the server makes this object before it forks, and each worker has its own chain."""
        if self._chain_of_process is None:
            self._chain_of_process = AuditChain(self._randomness.token(16), self._service)
        return self._chain_of_process

    @spans.a_wait("audit publish")
    async def publish(
        self,
        event: AuditEvent,
        *,
        if_withheld: Callable[[], AuditEvent] | None = None,
        answered: asyncio.Future[None] | None = None,
    ) -> None:
        """Returns when Pub/Sub has acknowledged the event, at most 2 s later.

        A caller that is cancelled, or gave up after 2 s, leaves its event in the queue.
        Raises: Unavailable.
        """
        if len(self._open) >= _MAX_UNACKNOWLEDGED:
            self._leave_to_store()
        if self._is_closed or len(self._open) >= _MAX_UNACKNOWLEDGED:
            _logger.error("audit event %s was not queued", event.event_id)
            raise Unavailable(_WHAT)
        loop = asyncio.get_running_loop()
        acknowledged = loop.create_future()
        takes_back, _ = self._unanswered.get(event.corrects or "", (None, None))
        queued = self._enqueue(event, settles=takes_back, acknowledged=acknowledged, if_withheld=if_withheld)
        if answered is not None:
            self._unanswered[event.event_id] = queued.settles, answered
            answered.add_done_callback(lambda _: self._unanswered.pop(event.event_id))
        self._send()
        timer = loop.call_later(_BUDGET_S, self._fail, queued)
        try:
            await acknowledged
        except Unavailable:
            await self._keep()
            raise
        except asyncio.CancelledError:
            queued.is_given_up = True
            if self._take_back(queued, has_failed=False):
                self._send()
            raise
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Send what is left, then the event that ends the chain. What cannot be sent is kept; what cannot be kept is logged by id."""
        if self._is_closed:
            return
        if self._unanswered:  # who ends this ends those callers as well: they say now what becomes of their events
            await asyncio.wait([answered for _, answered in self._unanswered.values()], timeout=_BUDGET_S)
        self._is_closed = True
        while self._in_flight:
            await asyncio.wait(self._in_flight)
        await self._publish_all()
        if self._chain_of_process is not None:
            self._enqueue(self._last_event())
            await self._publish_all()
        for queued in self._open.values():
            queued.is_given_up = True
        await self._keep()
        for queued in self._open.values():
            if not queued.is_kept:
                _logger.error("audit event %s was never acknowledged", queued.event.event_id)
        if self._beside:
            await asyncio.wait(self._beside, timeout=_KEEPING_BUDGET_S)
        await self._publisher.close()

    def _enqueue(
        self,
        event: AuditEvent,
        *,
        settles: int | None = None,
        acknowledged: asyncio.Future[None] | None = None,
        has_failed: bool = False,
        if_withheld: Callable[[], AuditEvent] | None = None,
    ) -> _Queued:
        sealed = self._chain.seal(event, settled=self._settled)
        queued = _Queued(
            sealed,
            settles or sealed.seq,
            acknowledged=acknowledged,
            has_failed=has_failed,
            is_given_up=acknowledged is None,
            if_withheld=if_withheld,
        )
        self._queue.append(queued)
        self._open[sealed.seq] = queued
        return queued

    @property
    def _settled(self) -> int:
        """The last number of the chain before everything that waits for an acknowledgement, or may be taken back still."""
        waiting = [
            *(number for number, _ in self._unanswered.values()),
            *(queued.settles for queued in self._open.values()),
        ]
        if self._left_to_store is not None:
            waiting.append(self._left_to_store)
        return min(waiting, default=self._chain.length + 1) - 1

    def _fail(self, queued: _Queued) -> None:
        """Tell the caller. The event itself goes on: in the queue, or with the publish that carries it."""
        if queued.acknowledged is not None and not queued.acknowledged.done():
            queued.is_given_up = True
            queued.acknowledged.set_exception(Unavailable(_WHAT))
            self._take_back(queued, has_failed=True)

    def _take_back(self, queued: _Queued, *, has_failed: bool) -> bool:
        """From now on the event never goes out again without what takes it back: batches are filled in this order."""
        take_back, queued.if_withheld = queued.if_withheld, None
        if take_back is None:
            return False
        event = take_back()
        _logger.warning("audit event %s: its token was withheld, as event %s says", event.corrects, event.event_id)
        self._enqueue(event, settles=queued.event.seq, has_failed=has_failed)
        return True

    async def _keep(self) -> None:
        """Returns when everything that was given up is in the store, or cannot be put there in good time."""
        await asyncio.wait([self._start_keeping()], timeout=_KEEPING_BUDGET_S)

    def _start_keeping(self) -> asyncio.Task[None]:
        if self._keeping is None or self._keeping.done():
            self._keeping = self._start_beside(self._keep_what_is_given_up())
        return self._keeping

    def _start_beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def _keep_what_is_given_up(self) -> None:
        if self._unsent is None:
            return
        tried: set[_Queued] = set()
        while due := [
            queued
            for queued in self._open.values()
            if queued.is_given_up and not queued.is_kept and queued not in tried
        ]:
            batch = due[: _fitting(queued.event for queued in due)]
            tried.update(batch)
            try:
                await self._unsent.keep([queued.event for queued in batch])
            except Unavailable:
                _logger.warning("%d audit events cannot be kept elsewhere", len(batch))
                continue
            for queued in batch:
                queued.is_kept = True
            # Who was acknowledged meanwhile is not looked at any more by those who publish.
            await self._forget([queued.event for queued in batch if queued.event.seq not in self._open])

    async def _forget(self, events: list[SealedEvent]) -> None:
        """Where that fails somebody will publish them again, as the same bytes."""
        if events and self._unsent is not None:
            try:
                await self._unsent.forget(events)
            except Unavailable:
                _logger.warning("%d audit events were published and are kept still", len(events))

    def _leave_to_store(self) -> None:
        """Memory is bounded: what is kept in the store goes out from there."""
        left = [queued for queued in self._queue if queued.is_kept]
        for queued in left:
            del self._open[queued.event.seq]
        if left:
            self._queue = deque(queued for queued in self._queue if not queued.is_kept)
            lowest = min(queued.settles for queued in left)
            self._left_to_store = lowest if self._left_to_store is None else min(lowest, self._left_to_store)

    def _look(self) -> None:
        """Publishing works: so send what any process could not. Beside the requests, and not at every publish."""
        now = self._clock.now()
        if self._looked_at is None or now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            self._start_beside(self._send_what_is_kept())

    async def _send_what_is_kept(self) -> None:
        if self._unsent is None:
            return
        try:
            while kept := await self._unsent.oldest():
                batch = kept[: _fitting(kept)]
                await self._publisher.publish(self._topic, _messages(batch))
                await self._unsent.forget(batch)
        except Unavailable:
            _logger.warning("audit events that are kept could not be sent now")

    def _last_event(self) -> AuditEvent:
        return AuditEvent(
            event_id=self._randomness.event_id(),
            event_type=EventType.CHAIN_CLOSED,
            occurred_at=self._clock.now(),
            count=self._chain.length + 1,
        )

    def _send(self) -> None:
        """Start a publish, unless as many as may be are under way; the one that ends first will take what is queued by then."""
        # A task that has ended stays in the set until the loop's next turn: it takes nothing from the queue any more.
        most = _MAX_IN_FLIGHT if len(self._queue) < _TOGETHER else _MAX_IN_FLIGHT_TOGETHER
        if sum(not task.done() for task in self._in_flight) < most:
            task = asyncio.create_task(self._publish_queued())
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _publish_queued(self) -> None:
        """Publish until nothing is queued but what has failed before."""
        while any(not queued.has_failed for queued in self._queue):
            await self._publish_batch()

    async def _publish_all(self) -> None:
        while self._queue and await self._publish_batch():
            pass

    async def _publish_batch(self) -> bool:
        newest = self._chain.length
        batch = self._next_batch()
        is_acknowledged = False
        try:
            await self._publisher.publish(self._topic, _messages([queued.event for queued in batch]))
            is_acknowledged = True
        except Unavailable:
            pass
        finally:  # also when the server stops this task
            if is_acknowledged:
                for queued in batch:
                    del self._open[queued.event.seq]
                    queued.succeed()
            else:
                self._put_back(batch, newest)
        if is_acknowledged:
            if kept := [queued.event for queued in batch if queued.is_kept]:
                self._start_beside(self._forget(kept))
            self._look()
        else:
            self._start_keeping()  # also what nobody waits for
        return is_acknowledged

    def _next_batch(self) -> list[_Queued]:
        return [self._queue.popleft() for _ in range(_fitting(queued.event for queued in self._queue))]

    def _put_back(self, batch: list[_Queued], newest: int) -> None:
        """After a publish failed that started when `newest` was the last event of the chain."""
        failed = batch
        if all(queued.has_failed for queued in batch):
            # What waited behind this batch of old failures would never be reached while publishing fails.
            failed = [*batch, *(queued for queued in self._queue if queued.event.seq <= newest)]
        for queued in failed:
            queued.has_failed = True
            self._fail(queued)
        self._queue = deque(sorted([*batch, *self._queue], key=lambda queued: queued.event.seq))


def _fitting(events: Iterable[SealedEvent]) -> int:
    """How many of the first ones a call carries, at least one where there is one."""
    count = size = 0
    for event in events:
        size += len(event.data)
        if count == _MAX_MESSAGES or (count and size > _MAX_BATCH_BYTES):
            break
        count += 1
    return count


def _messages(events: list[SealedEvent]) -> list[Message]:
    return [_message(group) for group in groups(events)]


def _message(events: list[SealedEvent]) -> Message:
    if len(events) > 1:
        return Message(pack(events), {"events": str(len(events))})
    (event,) = events
    return Message(event.data, {"event_id": event.event_id, "event_type": event.event_type})

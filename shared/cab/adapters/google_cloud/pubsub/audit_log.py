"""`AuditLog` on Pub/Sub: group commit, and no event forgotten while the process lives.

At most two publishes are in flight. Each carries everything that was queued when it started; events that come
meanwhile go together in the next one. A caller waits for the acknowledgement of the call that carried its event, never
for a timer. An event whose publish failed stays at the head of the queue, as the same bytes, and goes with the next
publish: nothing is sent by itself after the answer, when a function has no CPU. If its caller withheld a token for it,
what takes it back is queued behind it in the same moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain, SealedEvent
from cab.adapters.google_cloud.pubsub.publisher import Message, PubSubPublisher
from cab.domain.audit import AuditEvent, EventType, Service
from cab.ports import Clock, Randomness, Unavailable

_logger = logging.getLogger(__name__)

_WHAT = "audit"
_BUDGET_S = 2.0
_MAX_IN_FLIGHT = 2
_MAX_MESSAGES = 100
_MAX_BATCH_BYTES = 1_000_000
_MAX_UNACKNOWLEDGED = 1_000  # events; the oldest are kept, because the chain hangs on them


@dataclass(slots=True, eq=False)
class _Queued:
    """An event and the caller that waits for it, if one does. `has_failed`: a publish that carried it has.

    `if_withheld`: what takes it back, until that is queued.
    """

    event: SealedEvent
    acknowledged: asyncio.Future[None] | None = None
    has_failed: bool = False
    if_withheld: Callable[[], AuditEvent] | None = None

    def succeed(self) -> None:
        if self.acknowledged is not None and not self.acknowledged.done():
            self.acknowledged.set_result(None)


class PubSubAuditLog:
    """One per process: its events form one hash chain. Belongs to the event loop of its first call."""

    def __init__(
        self, project: str, topic: str, *, service: str, revision: str, clock: Clock, randomness: Randomness
    ) -> None:
        self._publisher = PubSubPublisher(project, what=_WHAT)
        self._topic = topic
        self._clock = clock
        self._randomness = randomness
        self._service = Service(function=service, revision=revision)
        self._chain_of_process: AuditChain | None = None
        self._queue: deque[_Queued] = deque()
        self._unacknowledged = 0  # queued or in flight
        self._in_flight: set[asyncio.Task[None]] = set()
        self._is_closed = False

    @property
    def _chain(self) -> AuditChain:
        """Begun with the first event: the server makes this object before it forks, and each worker has its own chain."""
        if self._chain_of_process is None:
            self._chain_of_process = AuditChain(self._randomness.token(16), self._service)
        return self._chain_of_process

    async def publish(self, event: AuditEvent, *, if_withheld: Callable[[], AuditEvent] | None = None) -> None:
        """Returns when Pub/Sub has acknowledged the event, at most 2 s later.

        A caller that is cancelled, or gave up after 2 s, leaves its event in the queue.
        Raises: Unavailable.
        """
        if self._is_closed or self._unacknowledged >= _MAX_UNACKNOWLEDGED:
            _logger.error("audit event %s was not queued", event.event_id)
            raise Unavailable(_WHAT)
        loop = asyncio.get_running_loop()
        acknowledged = loop.create_future()
        queued = _Queued(self._chain.seal(event), acknowledged, if_withheld=if_withheld)
        self._queue.append(queued)
        self._unacknowledged += 1
        self._send()
        timer = loop.call_later(_BUDGET_S, self._fail, queued)
        try:
            await acknowledged
        except asyncio.CancelledError:
            self._take_back(queued)
            raise
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Send what is left and the event that ends the chain; log the ids of what could not be sent. One try."""
        if self._is_closed:
            return
        self._is_closed = True
        while self._in_flight:
            await asyncio.wait(self._in_flight)
        if self._chain.length:
            self._queue.append(_Queued(self._chain.seal(self._last_event())))
            self._unacknowledged += 1
        while self._queue and await self._publish_batch():
            pass
        for queued in self._queue:
            _logger.error("audit event %s was never acknowledged", queued.event.event_id)
        await self._publisher.close()

    def _fail(self, queued: _Queued) -> None:
        """Tell the caller. The event itself goes on: in the queue, or with the publish that carries it."""
        if queued.acknowledged is not None and not queued.acknowledged.done():
            queued.acknowledged.set_exception(Unavailable(_WHAT))
            self._take_back(queued)

    def _take_back(self, queued: _Queued) -> None:
        """From now on the event never goes out again without what takes it back: batches are filled in this order."""
        take_back, queued.if_withheld = queued.if_withheld, None
        if take_back is not None:
            event = take_back()
            _logger.warning("audit event %s: its token was withheld, as event %s says", event.corrects, event.event_id)
            self._queue.append(_Queued(self._chain.seal(event), has_failed=True))
            self._unacknowledged += 1

    def _last_event(self) -> AuditEvent:
        return AuditEvent(
            event_id=self._randomness.event_id(),
            event_type=EventType.CHAIN_CLOSED,
            occurred_at=self._clock.now(),
            count=self._chain.length + 1,
        )

    def _send(self) -> None:
        """Start a publish, unless two are under way; the one that ends first will take what is queued by then."""
        # A task that has ended stays in the set until the loop's next turn: it takes nothing from the queue any more.
        if sum(not task.done() for task in self._in_flight) < _MAX_IN_FLIGHT:
            task = asyncio.create_task(self._publish_queued())
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _publish_queued(self) -> None:
        """Publish until nothing is queued but what has failed before."""
        while any(not queued.has_failed for queued in self._queue):
            await self._publish_batch()

    async def _publish_batch(self) -> bool:
        newest = self._chain.length
        batch = self._next_batch()
        is_acknowledged = False
        try:
            await self._publisher.publish(self._topic, [_message(queued.event) for queued in batch])
            is_acknowledged = True
        except Unavailable:
            pass
        finally:  # also when the server stops this task
            if is_acknowledged:
                self._unacknowledged -= len(batch)
                for queued in batch:
                    queued.succeed()
            else:
                self._put_back(batch, newest)
        return is_acknowledged

    def _next_batch(self) -> list[_Queued]:
        batch: list[_Queued] = []
        size = 0
        while self._queue and len(batch) < _MAX_MESSAGES:
            size += len(self._queue[0].event.data)
            if batch and size > _MAX_BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

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


def _message(event: SealedEvent) -> Message:
    return Message(event.data, {"event_id": event.event_id, "event_type": event.event_type})

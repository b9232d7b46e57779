"""`AuditLog` as a list."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.domain.audit import AuditEvent, SealedEvent, Service, read_json
from cab.ports import Unavailable
from cab_dev.fakes.warning import warn_of_fake


class InMemoryAuditLog:
    """`events` holds what was acknowledged, in order; `messages` the same as published, with service and chain.

    `is_down` makes `publish` fail: the event then stays unsent and goes ahead of the next one.
    `loses_answers` makes it fail although the event was taken; the retry is then a duplicate.
    """

    def __init__(self, *, service: str = "test", revision: str = "test-1", delay_s: float = 0.0) -> None:
        warn_of_fake(self)
        self.delay_s = delay_s
        self.is_down = False
        self.loses_answers = False
        self.events: list[AuditEvent] = []
        self.messages: list[SealedEvent] = []
        self._unsent: deque[SealedEvent] = deque()
        self._unanswered: set[int] = set()
        self._chain = AuditChain(f"chain-of-{service}", Service(function=service, revision=revision))

    @property
    def is_publishing(self) -> bool:
        """Whether an event waits for its acknowledgement."""
        return bool(self._unsent)

    async def publish(
        self,
        event: AuditEvent,
        *,
        if_withheld: Callable[[], AuditEvent] | None = None,
        answered: asyncio.Future[None] | None = None,
    ) -> None:
        self._seal(event)
        if answered is not None:
            seq = self._chain.length
            self._unanswered.add(seq)
            answered.add_done_callback(lambda _: self._unanswered.discard(seq))
        try:
            await self._send()
        except (Unavailable, asyncio.CancelledError):
            if if_withheld is not None:
                self._seal(if_withheld())
            raise

    def _seal(self, event: AuditEvent) -> None:
        settled = min([self._chain.length - len(self._unsent), *(seq - 1 for seq in self._unanswered)])
        self._unsent.append(self._chain.seal(event, settled=settled))

    async def _send(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.is_down:
            raise Unavailable("audit")
        taken = list(self._unsent)
        self.messages += taken
        self.events += [read_json(sealed.data) for sealed in taken]
        if self.loses_answers:
            raise Unavailable("audit")
        self._unsent.clear()

    async def close(self) -> None:
        """Nothing to let go of."""

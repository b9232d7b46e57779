"""Moving a grant's token set from one storage to the other while agents use it: copied, then pointed at by one compare-and-set.

Broken off anywhere, the grant is whole: either its document points to the former versions, or to copies of the same bytes. Before
the first copy the document says that there may be one, so that none outlives a revocation (`tidy`, by the sweep).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from cab.domain import audit, grant_transitions
from cab.domain.configured.deployment import Deployment
from cab.domain.grants import NO_TOKENS, PRODUCTION_TIMINGS, Grant, GrantStatus, Storage, Timings
from cab.ports import Clock, NotFound, Randomness
from cab.stores.grant_payloads import GrantPayloads
from cab.stores.grants import Grants, StoredGrant
from cab.use_cases.audit.outbox import Outbox, grant_event, keepalive_of

Came = Literal["moved", "there", "waits", "missing"]
Step = Callable[[str], Awaitable[None]]  # called between two effects, where a test may end the process
MOST_COPIES: Final = 20  # of moves that were broken off since the last one was tidied up; each leaves two at most
MOST_LATE: Final = 50
_MARK: Final = b"{}"


async def no_step(_: str) -> None:
    """Nothing between two effects."""


class MoveGrants:
    def __init__(
        self,
        deployment: Deployment,
        store: Grants,
        payloads: GrantPayloads,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        *,
        timings: Timings = PRODUCTION_TIMINGS,
        step: Step = no_step,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._payloads = payloads
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._timings = timings
        self._step = step

    @property
    def to(self) -> Storage:
        return self._payloads.storage

    async def one(self, name: str, *, txn: str, by: str | None = None) -> Came:
        """`waits`: somebody works on it, or it is not cleaned up yet; ask again in a minute. Raises: Unavailable; ask again, too."""
        stored = await self._store.read(name)
        if stored is None:
            return "missing"
        if self._payloads.place(stored.grant) == self.to:
            return await self._said(stored)
        now = self._clock.now()
        if not grant_transitions.may_move(stored.grant, now):
            return "waits"
        last = NO_TOKENS if stored.grant.moving_to is None else await self._last_copy(stored.grant, self.to)
        begun = grant_transitions.move_begun(stored.grant, to=self.to, now=now, timings=self._timings)
        marked = await self._store.replace(stored, begun)
        if marked is None:
            return "waits"
        await self._step("marked")
        await self._destroy_copies(marked.grant, self.to, last)
        return await self._copied(marked, above=last, txn=txn, by=by)

    async def _said(self, stored: StoredGrant) -> Came:
        """The document itself names its storage, also where that went without saying."""
        if stored.grant.storage is None:
            named = stored.grant.model_copy(update={"storage": self.to})
            return "there" if await self._store.replace(stored, named) is not None else "waits"
        return "there"

    async def _copied(self, marked: StoredGrant, *, above: int, txn: str, by: str | None) -> Came:
        grant, to = marked.grant, self.to
        copies: list[int] = []

        async def copy(version: int) -> int:
            raw = await self._payloads.raw(grant, version)
            copies.append(await self._payloads.add(grant, raw, storage=to))
            await self._step("copied")
            return copies[-1]

        version, refresh_version = grant.secret_version, grant.refresh_version
        if grant.status is not GrantStatus.REVOKED and grant.keeps_tokens:
            await self._payloads.create(grant, storage=to)
            await self._step("created")
            try:
                refresh_version = await copy(refresh_version) if refresh_version else refresh_version
                version = await copy(version)
            except NotFound:
                return "waits"  # the next refresh will find out what became of it
        after = grant_transitions.moved(
            grant,
            to=to,
            was_in=self._payloads.place(grant),
            version=version,
            refresh_version=refresh_version,
            first=above + 1 if above else min(copies, default=1),  # another move's copies may be among these
            now=self._clock.now(),
            event=self._event(grant, version, txn=txn, by=by),
        )
        done = await self._store.replace(marked, after)
        if done is None:
            # It was used, refreshed, moved or ended meanwhile: that is the truth. The copies are left to the clean-up: a number
            # without a version, above what another move points to, would hide what is stored behind it.
            return "waits"
        await self._step("pointed")
        await self._outbox.flush(done)
        return "moved"

    def _event(self, grant: Grant, version: int, *, txn: str, by: str | None) -> dict[str, Any]:
        return grant_event(
            audit.EventType.GRANT_MOVED,
            grant.model_copy(update={"secret_version": version}),
            cause=f"from {self._payloads.place(grant)} to {self.to}",
            now=self._clock.now(),
            randomness=self._randomness,
            txn=txn,
            by=by,
        )

    # --- what moves leave ---

    async def tidy(self, name: str) -> None:
        """Destroy what a move left where the grant was, and the copies of one that was broken off, of a grant that was read just now.

        Raises: Unavailable.
        """
        stored = await self._store.last_seen(name)
        now = self._clock.now()
        if stored is None or not grant_transitions.move_is_due(stored.grant, now, self._timings):
            return
        if stored.grant.moving_to is not None:
            # First the document changes, so that no move can point to what is destroyed here: not one that stands still, and
            # what one that begins from now on copies, has a number above `last`.
            last = await self._last_copy(stored.grant, stored.grant.moving_to)
            again = grant_transitions.move_begun(
                stored.grant, to=stored.grant.moving_to, now=now, timings=self._timings
            )
            mine = await self._store.replace(stored, again)
            if mine is None:
                return
            stored = mine
            await self._step("taken over")
            await self._destroy_copies(stored.grant, stored.grant.moving_to or self.to, last)
        if stored.grant.left_behind is not None:
            await self._destroy_left(stored.grant)
        await self._step("tidied")
        keepalive = keepalive_of(stored.grant, self._deployment)
        settled = grant_transitions.move_settled(stored.grant, keepalive=keepalive, now=now, timings=self._timings)
        await self._store.replace(stored, settled)

    async def _last_copy(self, grant: Grant, where: Storage) -> int:
        """Nobody knows the numbers of copies, but a new version's is above them all."""
        await self._payloads.create(grant, storage=where)
        return await self._payloads.add(grant, _MARK, storage=where)

    async def _destroy_copies(self, grant: Grant, where: Storage, last: int) -> None:
        """`last` was asked for before the document changed, and nobody else has changed it since."""
        for version in range(max(1, last - MOST_COPIES), last + 1):
            await self._payloads.destroy(grant, version, storage=where)

    async def _destroy_left(self, grant: Grant) -> None:
        """And what a holder of before stored there late: it has brought that to where the grant is."""
        left = grant.left_behind
        assert left is not None  # noqa: S101  # as its caller has seen
        there = grant.model_copy(update={"storage": left.storage})
        for version in range(max(left.first, NO_TOKENS + 1), left.last + 1):
            await self._payloads.destroy(there, version)
        for version in range(left.last + 1, left.last + 1 + MOST_LATE):
            try:
                await self._payloads.raw(there, version)
            except NotFound:
                return
            await self._payloads.destroy(there, version)

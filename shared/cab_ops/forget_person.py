"""Take out of the stores what is kept of one person. The audit keeps its rows, under a key that leads to nobody by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from cab.domain.grants import GrantStatus
from cab.domain.identifiers import digest
from cab.ports import Condition, Conflict, Delete, Document, Documents
from cab.stores.approvals import Binding, decision_path
from cab.stores.fields import from_fields
from cab.stores.grants import Grants

_PAGE: Final = 100
_WITH_SUBJECT: Final = ("sessions", "connect_states", "account_questions")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many documents of each kind were deleted. `still_ending`: grants whose tokens are not destroyed yet, which stay until then."""

    deleted: dict[str, int]
    still_ending: int


class ForgetPerson:
    """Over the databases of one deployment, as an operator who may write them. Safe to repeat, and to stop anywhere."""

    def __init__(self, *, guards: Documents, approvals: Documents, grants: Documents) -> None:
        self._guards = guards
        self._approvals = approvals
        self._grants = grants

    async def __call__(self, tenant: str, subject: str) -> Forgotten:
        """What lets somebody act goes first. Raises: Unavailable; what was deleted stays so."""
        deleted = {name: await self._of_subject(name, tenant, subject) for name in _WITH_SUBJECT}
        deleted["approvals"] = await self._asked(tenant, subject)
        deleted["issued_tokens"] = await self._owned("issued_tokens", tenant, subject)
        deleted["grants"], still_ending = await self._ended_grants(tenant, subject)
        return Forgotten(deleted, still_ending)

    async def _of_subject(self, collection: str, tenant: str, subject: str) -> int:
        whose = (Condition("tenant", "==", tenant), Condition("subject", "==", subject))
        number = 0
        async for document in _all(self._approvals, collection, *whose):
            await self._approvals.write(Delete(document.path))
            number += 1
        return number

    async def _owned(self, collection: str, tenant: str, subject: str) -> int:
        number = 0
        async for document in _all(self._guards, collection, Condition("owner", "==", digest(tenant, subject))):
            await self._guards.write(Delete(document.path))
            number += 1
        return number

    async def _asked(self, tenant: str, subject: str) -> int:
        """Questions to the person with their answers, which outlive a question that was spent. What another document is found by
        goes after it.
        """
        of_whom = Condition("owner", "==", digest(tenant, subject))
        gone = set()
        async for document in _all(self._guards, "approval_requests", of_whom):
            binding = from_fields(Binding, document.fields["binding"])
            answer = decision_path(document.fields["id"])
            await self._approvals.write(Delete(answer))
            # The last release kept a second copy.
            await self._guards.write(Delete(f"approval_bindings/{binding.key()}"), Delete(document.path))
            gone.add(answer)
        async for document in _all(self._approvals, "decisions", of_whom):
            await self._approvals.write(Delete(document.path))
            gone.add(document.path)
        return len(gone)

    async def _ended_grants(self, tenant: str, subject: str) -> tuple[int, int]:
        """A grant's document is what its tokens are found by: it goes when they have been revoked and destroyed."""
        deleted = waiting = 0
        for stored in await Grants(self._grants).matching(equal={"tenant": tenant, "subject": subject}):
            grant = stored.grant
            if grant.status is not GrantStatus.REVOKED or grant.outbox or grant.due_at is not None:
                waiting += 1
                continue
            try:
                await self._grants.write(Delete(f"grants/{grant.grant_id}", stored.version))
                deleted += 1
            except Conflict:
                waiting += 1  # somebody works on it
        return deleted, waiting


async def _all(documents: Documents, collection: str, *conditions: Condition) -> AsyncIterator[Document]:
    """Each document once; those that are gone by the next page are not met again."""
    while page := await documents.find(collection, *conditions, limit=_PAGE):
        for document in page:
            yield document

"""Confirmations: what waits for a person, what the person decided, and that a decision is used once.

Three places with three writers, so that no internet-facing function can approve its own request: requests and uses are in
`guards` (written by exchange_token), decisions in `approvals` (written by connect_account alone).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final

from cab.domain.identifiers import digest
from cab.ports import AlreadyExists, Condition, Conflict, Create, Documents, Replace
from cab.stores.fields import AS_TEXT, from_fields, to_fields
from cab.stores.single_use import Kind, SingleUse

MANY: Final = 50  # open questions of one user, or of one agent to them, that are read at once


@dataclass(frozen=True, slots=True)
class Binding:
    """What an approval is good for. A change in any member is another approval."""

    tenant: str
    subject: str
    agent: str
    intent_hash: str
    policy_version: str
    task_id: str | None

    def whose(self) -> tuple[str, str, str, str]:
        """For whom, through whom and what: tenant, user, agent, intent hash."""
        return self.tenant, self.subject, self.agent, self.intent_hash

    def key(self) -> str:
        task = ("task", self.task_id) if self.task_id is not None else ("no task",)
        return digest(
            "cab-approval", self.tenant, self.subject, self.agent, self.intent_hash, self.policy_version, *task
        )


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A request that waits for its user until `waits_until`. `detail` is the complete canonical intent, `reason` untrusted text."""

    id: str
    binding: Binding
    connection: str
    detail: dict[str, Any] = field(metadata=AS_TEXT)
    reason: str | None
    prompts: tuple[str, ...]
    txn: str
    requested_at: datetime
    waits_until: datetime
    acr_values: str | None = None
    request_digest: str | None = None  # of the request that the broker is to send itself
    front_end: str | None = None  # of the login under which the agent asked


@dataclass(frozen=True, slots=True)
class ApprovalDecision:
    """`binding` is the key of what the person was shown: a request that is rewritten afterwards has no decision.

    `account` names the upstream account that was connected then (`cab.domain.accounts`): with another one it is void.
    """

    approved: bool
    decided_at: datetime
    binding: str | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalState:
    request: ApprovalRequest
    decision: ApprovalDecision | None = None
    spent: bool = False

    @property
    def is_for_this(self) -> bool:
        """Whether the decision was made on what the request says now."""
        return self.decision is not None and self.decision.binding == self.request.binding.key()

    def is_usable(self, now: datetime, valid_for: timedelta) -> bool:
        return (
            self.decision is not None
            and self.is_for_this
            and self.decision.approved
            and not self.spent
            and now < self.decision.decided_at + valid_for
        )


class ApprovalRequests:
    """Written by exchange_token."""

    def __init__(self, guards: Documents, single_use: SingleUse) -> None:
        self._guards = guards
        self._single_use = single_use

    async def read(self, approval_id: str) -> ApprovalRequest | None:
        document = await self._guards.read(f"approval_requests/{digest(approval_id)}")
        return None if document is None else from_fields(ApprovalRequest, document.fields)

    async def current(self, binding: Binding) -> ApprovalRequest | None:
        """The newest request for this binding, whatever became of it."""
        pointer = await self._guards.read(f"approval_bindings/{binding.key()}")
        if pointer is None:
            return None
        if "binding" in pointer.fields:
            found: ApprovalRequest | None = from_fields(ApprovalRequest, pointer.fields)
        else:  # written by an older release, which kept the id alone there
            found = await self.read(pointer.fields["approval_id"])
        return found if found is not None and found.binding == binding else None

    async def open(self, request: ApprovalRequest, *, instead_of: str | None) -> ApprovalRequest:
        """Open a request, or return the one that another instance opened first.

        `instead_of` is the id of the request found by `current` (ended), None when there was none.
        """
        expires_at = request.waits_until + timedelta(hours=1)
        fields = _fields(request)
        opened = Create(f"approval_requests/{digest(request.id)}", fields, expires_at=expires_at)
        path = f"approval_bindings/{request.binding.key()}"
        # With a copy of the request: whoever asks again finds both in one read.
        newest = fields | {"approval_id": request.id}
        pointer = await self._guards.read(path) if instead_of is not None else None
        try:
            if pointer is None:
                await self._guards.write(opened, Create(path, newest, expires_at=expires_at))
                return request
            if pointer.fields["approval_id"] == instead_of:
                await self._guards.write(opened, Replace(path, newest, pointer.version, expires_at=expires_at))
                return request
        except (AlreadyExists, Conflict):
            pass
        winner = await self.current(request.binding)
        if winner is None:  # gone meanwhile: this one can be answered, though a repetition will not find it
            await self._guards.write(opened)
        return winner or request

    async def waiting_for(
        self, tenant: str, subject: str, *, agents: Collection[str], now: datetime
    ) -> list[ApprovalRequest]:
        """Requests of one user that still wait, those that end soonest first; of a flood, the MANY newest of each agent.

        One query, and only where that does not bring all of them, one for each of the `agents`: however many questions one of
        them asks, those of the others are found.
        """
        found = await self._waiting("owner", digest(tenant, subject), now=now)
        if len(found) >= MANY:
            of_each = await asyncio.gather(
                *(self._waiting("asker", _asker(tenant, subject, agent), now=now) for agent in agents)
            )
            found = list({request.id: request for request in chain(found, *of_each)}.values())
        return sorted(found, key=lambda request: request.waits_until)

    async def _waiting(self, field: str, value: str, *, now: datetime) -> list[ApprovalRequest]:
        documents = await self._guards.find(
            "approval_requests",
            Condition(field, "==", value),
            Condition("waits_until", ">", now),
            order_by="waits_until",
            descending=True,
            limit=MANY,
        )
        return [from_fields(ApprovalRequest, document.fields) for document in documents]

    async def spend(self, request: ApprovalRequest, *, until: datetime) -> bool:
        """Spend the approval. True exactly once."""
        return await self._single_use.claim(
            Kind.APPROVAL, tenant=request.binding.tenant, issuer="cab", identifier=request.id, until=until
        )

    async def is_spent(self, approval_id: str, *, tenant: str) -> bool:
        return await self._single_use.is_used(Kind.APPROVAL, tenant=tenant, issuer="cab", identifier=approval_id)


class ApprovalDecisions:
    """Written by connect_account alone; exchange_token has read permission only."""

    def __init__(self, approvals: Documents) -> None:
        self._approvals = approvals

    async def read(self, approval_id: str) -> ApprovalDecision | None:
        document = await self._approvals.read(f"decisions/{digest(approval_id)}")
        return None if document is None else from_fields(ApprovalDecision, document.fields)

    async def record(self, approval_id: str, decision: ApprovalDecision, *, by: str, expires_at: datetime) -> bool:
        """Write the person's decision once. False when there is one already."""
        try:
            await self._approvals.write(
                Create(f"decisions/{digest(approval_id)}", to_fields(decision) | {"by": by}, expires_at=expires_at)
            )
        except AlreadyExists:
            return False
        return True


def _fields(request: ApprovalRequest) -> dict[str, Any]:
    """With what the lists of a person's open questions are found by."""
    binding = request.binding
    asker = _asker(binding.tenant, binding.subject, binding.agent)
    return to_fields(request) | {"owner": digest(binding.tenant, binding.subject), "asker": asker}


def _asker(tenant: str, subject: str, agent: str) -> str:
    return digest("cab-asker", tenant, subject, agent)

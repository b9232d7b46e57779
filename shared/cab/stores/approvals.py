"""Confirmations: what waits for a person, what the person decided, and that a decision is used once.

Two places with two writers, so that no internet-facing function can approve its own request: requests are in `guards` (written by
exchange_token, and deleted when the yes is spent), decisions in `approvals` (written by connect_account alone).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from dataclasses import field, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final

from cab.domain.identifiers import digest
from cab.ports import (
    AlreadyExists,
    Condition,
    Conflict,
    Create,
    Delete,
    Document,
    Documents,
    Replace,
    Unavailable,
    Write,
)
from cab.stores.fields import AS_TEXT, from_fields, to_fields
from cab.values import immutable

_REQUESTS: Final = "approval_requests"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
MANY: Final = 50  # open questions of one user, or of one agent to them, that are read at once


@immutable
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


@immutable
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


@immutable
class Question:
    """A request as it is stored. Its `version` is what spends it; None for one of the last release, which marks what it has spent
    elsewhere: such a question can be looked at and answered, and is never good for anything here.
    """

    request: ApprovalRequest
    version: object | None


@immutable
class ApprovalDecision:
    """`binding` is the key of what the person was shown: a request that is rewritten afterwards has no decision.

    `account` names the upstream account that was connected then (`cab.domain.accounts`): with another one it is void.
    `request` is what was shown, for whoever comes back to the page: a question is gone once its answer is spent.
    """

    approved: bool
    decided_at: datetime
    binding: str | None = None
    account: str | None = None
    request: ApprovalRequest | None = None

    def is_about(self, request: ApprovalRequest) -> bool:
        """Whether it was made on what the request says now."""
        return self.binding == request.binding.key()

    def is_good_for(self, question: Question, *, now: datetime, valid_for: timedelta) -> bool:
        """Whether it is a yes to the question that can still be spent."""
        return (
            self.approved
            and self.is_about(question.request)
            and question.version is not None
            and now < self.decided_at + valid_for
        )


class ApprovalRequests:
    """Written by exchange_token. One document for what a question is about: whoever asks the same finds it there, and whoever
    has its id by that. The next question about the same takes its place; spending the yes takes it away.
    """

    def __init__(self, guards: Documents) -> None:
        self._guards = guards

    async def find(self, approval_id: str) -> Question | None:
        """The question of that id, also when it has ended; None when it was spent, or another one has followed it."""
        if not _ID.fullmatch(approval_id):
            return None
        found = await self._guards.find(_REQUESTS, Condition("id", "==", approval_id), limit=1)
        return _question(found[0]) if found else None

    async def read(self, approval_id: str) -> ApprovalRequest | None:
        """As `find`, for whoever has nothing to spend."""
        found = await self.find(approval_id)
        return None if found is None else found.request

    async def current(self, binding: Binding) -> Question | None:
        """The newest question about exactly this that was not spent, whatever else became of it."""
        document = await self._guards.read(_place(binding))
        found = None if document is None else _question(document)
        return found if found is not None and found.request.binding == binding else None

    async def open(self, request: ApprovalRequest, *, instead_of: Question | None) -> ApprovalRequest:
        """Open a request, or return the one that another instance opened first.

        `instead_of` is what `current` found (ended), None when there was none. Raises: Unavailable.
        """
        path, fields = _place(request.binding), _fields(request)
        expires_at = request.waits_until + timedelta(hours=1)
        first = Create(path, fields, expires_at=expires_at)
        writes: list[Write] = [first]
        if instead_of is not None:  # which may be spent meanwhile, or its time over: then the place is free
            writes.insert(0, Replace(path, fields, instead_of.version, expires_at=expires_at))
        for write in writes:
            try:
                await self._guards.write(write)
            except (AlreadyExists, Conflict):
                winner = await self.current(request.binding)
                if winner is not None:
                    return winner.request
            else:
                return request
        raise Unavailable("documents")

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
            _REQUESTS,
            Condition(field, "==", value),
            Condition("waits_until", ">", now),
            order_by="waits_until",
            descending=True,
            limit=MANY,
        )
        return [from_fields(ApprovalRequest, document.fields) for document in documents]

    async def spend(self, question: Question) -> bool:
        """Spend the user's yes by taking the question away. True exactly once: nothing brings the version back that was read."""
        if question.version is None:
            return False
        try:
            await self._guards.write(Delete(_place(question.request.binding), question.version))
        except Conflict:
            return False
        return True


class ApprovalDecisions:
    """Written by connect_account alone; exchange_token has read permission only."""

    def __init__(self, approvals: Documents) -> None:
        self._approvals = approvals

    async def read(self, approval_id: str) -> ApprovalDecision | None:
        document = await self._approvals.read(decision_path(approval_id))
        return None if document is None else from_fields(ApprovalDecision, document.fields)

    async def record(
        self, request: ApprovalRequest, decision: ApprovalDecision, *, by: str, expires_at: datetime
    ) -> bool:
        """Write the person's decision on what they were shown, once. False when there is one already."""
        binding = request.binding
        fields = to_fields(replace(decision, request=request))
        fields |= {"by": by, "owner": digest(binding.tenant, binding.subject)}
        try:
            await self._approvals.write(Create(decision_path(request.id), fields, expires_at=expires_at))
        except AlreadyExists:
            return False
        return True


def decision_path(approval_id: str) -> str:
    return f"decisions/{digest(approval_id)}"


def _place(binding: Binding) -> str:
    return f"{_REQUESTS}/{binding.key()}"


def _question(document: Document) -> Question:
    request = from_fields(ApprovalRequest, document.fields)
    return Question(request, document.version if document.path == _place(request.binding) else None)


def _fields(request: ApprovalRequest) -> dict[str, Any]:
    """With what the lists of a person's open questions are found by."""
    binding = request.binding
    asker = _asker(binding.tenant, binding.subject, binding.agent)
    return to_fields(request) | {"owner": digest(binding.tenant, binding.subject), "asker": asker}


def _asker(tenant: str, subject: str, agent: str) -> str:
    return digest("cab-asker", tenant, subject, agent)

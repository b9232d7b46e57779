"""Confirmation as seen by the exchange: find the user's answer, ask when there is none, spend it once and for something.

An approval is bound to (tenant, user, agent, intent, policy version, task), not to one assertion: a retry may carry a fresh one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Any, Final

from cab.domain.configured.deployment import Broker
from cab.domain.decisions import Confirm, Decision
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.intents import Intent
from cab.domain.lru import remember
from cab.ports import Randomness
from cab.stores.approvals import (
    ApprovalDecision,
    ApprovalDecisions,
    ApprovalRequest,
    ApprovalRequests,
    Binding,
    Question,
)
from cab.values import immutable

_REMEMBERED: Final = 4096


@immutable
class Waiting:
    """The user has not answered yet."""

    request: ApprovalRequest


@immutable
class Agreed:
    """The user agreed, and nothing had spent that yet when it was read."""

    question: Question


class Confirmations:
    def __init__(
        self, broker: Broker, requests: ApprovalRequests, decisions: ApprovalDecisions, randomness: Randomness
    ) -> None:
        self._broker = broker
        self._requests = requests
        self._decisions = decisions
        self._randomness = randomness
        self._valid_for = timedelta(seconds=broker.lifetimes.approval_valid_s)
        self._asked: OrderedDict[str, datetime] = OrderedDict()

    def interaction_uri(self, request: ApprovalRequest) -> str:
        return f"{self._broker.origin}/approvals/{request.id}"

    async def current(self, binding: Binding) -> Question | None:
        """The newest question about exactly this that was not spent, whatever else became of it."""
        return await self._requests.current(binding)

    async def ask(
        self,
        binding: Binding,
        intent: Intent,
        decision: Confirm,
        *,
        instead_of: Question | None,
        detail: dict[str, Any],
        txn: str,
        request_digest: str | None,
        front_end: str,
        now: datetime,
    ) -> Waiting:
        """Ask the user. `instead_of` is the question found by `current`, which came to its end. `request_digest` names what the
        broker is to send, where it makes the call.
        """
        request = ApprovalRequest(
            id=self._randomness.token(16),
            binding=binding,
            connection=intent.connection,
            detail=detail,
            reason=intent.reason,
            prompts=decision.prompts,
            txn=txn,
            requested_at=now,
            waits_until=now + timedelta(seconds=self._broker.lifetimes.approval_wait_s),
            acr_values=decision.acr_values,
            request_digest=request_digest,
            front_end=front_end,
        )
        opened = await self._requests.open(request, instead_of=instead_of)
        remember(self._asked, binding.key(), opened.waits_until + self._valid_for, most=_REMEMBERED)
        return Waiting(opened)

    def is_asked_here(self, binding: Binding, now: datetime) -> bool:
        """Whether this instance has asked this, so that a request for it is most likely for the answer. Proves nothing."""
        until = self._asked.get(binding.key())
        return until is not None and now < until

    async def answer_to(
        self, question: Question, decision: Decision, *, account: str, now: datetime
    ) -> Waiting | Agreed | None:
        """As `weigh`, of what the person has said so far. Raises: BrokerError CONFIRMATION_REFUSED; Unavailable."""
        said = await self._decisions.read(question.request.id)
        return self.weigh(question, said, decision, account=account, now=now)

    def weigh(
        self, question: Question, said: ApprovalDecision | None, decision: Decision, *, account: str, now: datetime
    ) -> Waiting | Agreed | None:
        """What became of a question: still waiting, agreed to, or None when it ended without effect, asks for
        a weaker login than the `decision` of today does, or was agreed to with another upstream account than `account`.

        Raises: BrokerError CONFIRMATION_REFUSED while the refusal is in force.
        """
        request = question.request
        strong = not isinstance(decision, Confirm) or _is_as_strong(request.acr_values, decision.acr_values)
        if said is None:
            return Waiting(request) if strong and now < request.waits_until else None
        if not said.is_about(request):
            return None
        if not said.approved:
            if now < request.waits_until:
                raise BrokerError(Reason.CONFIRMATION_REFUSED, "The user refused this action.")
            return None
        is_good = said.is_good_for(question, now=now, valid_for=self._valid_for)
        return Agreed(question) if strong and said.account == account and is_good else None

    async def spend(self, agreed: Agreed) -> bool:
        """Spend the user's yes. True exactly once.

        The last step before the answer, and before the audit publish: if that fails, the user is asked again.
        """
        return await self._requests.spend(agreed.question)

    def refusal(self, waiting: Waiting) -> BrokerError:
        return BrokerError(
            Reason.CONFIRMATION_REQUIRED,
            "The user must confirm this action in a browser.",
            remedy=Remedy(interaction_uri=self.interaction_uri(waiting.request)),
        )

    async def look_up(self, approval_id: str) -> tuple[Question | None, ApprovalDecision | None]:
        """A question and what the person said to it, in one wait."""
        question, said = await asyncio.gather(self._requests.find(approval_id), self._decisions.read(approval_id))
        return question, said

    def ended(
        self, question: Question | None, said: ApprovalDecision | None, *, account: str, wait_over: bool
    ) -> BrokerError:
        """Why a deferral can no longer come to anything: its yes was spent, void, or never given in time."""
        if question is None and (said is not None or not wait_over):
            return BrokerError(Reason.DEFERRAL_CODE_INVALID, "The deferral code is not valid, or was redeemed before.")
        if said is not None and said.approved and said.account != account:
            return BrokerError(Reason.DEFERRAL_EXPIRED, "The user agreed with another account than is connected now.")
        return BrokerError(Reason.DEFERRAL_EXPIRED, "The request for confirmation has expired.")


def _is_as_strong(asked: str | None, wanted: str | None) -> bool:
    """Whether every login level that was good enough for the page is among those that are wanted."""
    return wanted is None or (asked is not None and set(asked.split()) <= set(wanted.split()))

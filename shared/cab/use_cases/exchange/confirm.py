"""Confirmation as seen by the exchange: find the user's answer, ask when there is none, spend it once and for something.

An approval is bound to (tenant, user, agent, intent, policy version, task), not to one assertion: a retry may carry a fresh one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cab.domain.configured.deployment import Broker
from cab.domain.decisions import Confirm, Decision
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.intents import Intent
from cab.ports import Randomness
from cab.stores.approvals import ApprovalDecisions, ApprovalRequest, ApprovalRequests, ApprovalState, Binding


@dataclass(frozen=True, slots=True)
class Waiting:
    """The user has not answered yet."""

    request: ApprovalRequest


@dataclass(frozen=True, slots=True)
class Agreed:
    """The user agreed, and nothing has spent that yet."""

    request: ApprovalRequest


class Confirmations:
    def __init__(
        self, broker: Broker, requests: ApprovalRequests, decisions: ApprovalDecisions, randomness: Randomness
    ) -> None:
        self._broker = broker
        self._requests = requests
        self._decisions = decisions
        self._randomness = randomness
        self._valid_for = timedelta(seconds=broker.lifetimes.approval_valid_s)

    def interaction_uri(self, request: ApprovalRequest) -> str:
        return f"{self._broker.origin}/approvals/{request.id}"

    async def current(self, binding: Binding) -> ApprovalRequest | None:
        """The newest request for exactly this, whatever became of it."""
        return await self._requests.current(binding)

    async def ask(
        self,
        binding: Binding,
        intent: Intent,
        decision: Confirm,
        *,
        instead_of: ApprovalRequest | None,
        detail: dict[str, Any],
        txn: str,
        request_digest: str | None,
        front_end: str,
        now: datetime,
    ) -> Waiting:
        """Ask the user. `instead_of` is the request found by `current`, which came to its end. `request_digest` names what the
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
        return Waiting(await self._requests.open(request, instead_of=instead_of.id if instead_of else None))

    async def answer_to(
        self,
        request: ApprovalRequest,
        decision: Decision,
        *,
        account: str,
        now: datetime,
        state: ApprovalState | None = None,
    ) -> Waiting | Agreed | None:
        """What became of a request: still waiting, agreed to and not spent, or None when it ended without effect, asks for
        a weaker login than the `decision` of today does, or was agreed to with another upstream account than `account`.
        Changes nothing. `state` is what is known of it, where that was read along with other things.

        Raises: BrokerError CONFIRMATION_REFUSED while the refusal is in force.
        """
        state = state or await self.state(request)
        strong = not isinstance(decision, Confirm) or _is_as_strong(request.acr_values, decision.acr_values)
        if state.decision is None:
            return Waiting(request) if strong and now < request.waits_until else None
        if not state.is_for_this:
            return None
        if not state.decision.approved:
            if now < request.waits_until:
                raise BrokerError(Reason.CONFIRMATION_REFUSED, "The user refused this action.")
            return None
        same_account = state.decision.account == account
        return Agreed(request) if strong and same_account and state.is_usable(now, self._valid_for) else None

    async def spend(self, agreed: Agreed) -> bool:
        """Spend the user's yes. True exactly once.

        The last step before the answer, and before the audit publish: if that fails, the user is asked again.
        """
        return await self._requests.spend(agreed.request, until=agreed.request.waits_until + self._valid_for)

    async def state(self, request: ApprovalRequest) -> ApprovalState:
        decision, spent = await asyncio.gather(
            self._decisions.read(request.id), self._requests.is_spent(request.id, tenant=request.binding.tenant)
        )
        return ApprovalState(request, decision, spent)

    def refusal(self, waiting: Waiting) -> BrokerError:
        return BrokerError(
            Reason.CONFIRMATION_REQUIRED,
            "The user must confirm this action in a browser.",
            remedy=Remedy(interaction_uri=self.interaction_uri(waiting.request)),
        )

    async def look_up(self, approval_id: str, *, tenant: str) -> ApprovalState | None:
        """A request with all that became of it, in one wait. None when there is no such request."""
        request, decision, spent = await asyncio.gather(
            self._requests.read(approval_id),
            self._decisions.read(approval_id),
            self._requests.is_spent(approval_id, tenant=tenant),
        )
        return None if request is None else ApprovalState(request, decision, spent)

    async def ended(self, request: ApprovalRequest, *, account: str) -> BrokerError:
        """Why a deferral can no longer come to anything: its approval was spent, or nobody answered in time."""
        state = await self.state(request)
        if state.spent:
            return BrokerError(Reason.DEFERRAL_CODE_INVALID, "The deferral code was redeemed before.")
        if state.decision is not None and state.decision.approved and state.decision.account != account:
            return BrokerError(Reason.DEFERRAL_EXPIRED, "The user agreed with another account than is connected now.")
        return BrokerError(Reason.DEFERRAL_EXPIRED, "The request for confirmation has expired.")


def _is_as_strong(asked: str | None, wanted: str | None) -> bool:
    """Whether every login level that was good enough for the page is among those that are wanted."""
    return wanted is None or (asked is not None and set(asked.split()) <= set(wanted.split()))

"""Confirmation as seen by the exchange: find the user's answer, ask when there is none, spend it once.

An approval is bound to (tenant, user, agent, intent, policy version, task), not to one assertion: a retry may carry a fresh one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cab.domain.decisions import Confirm, Decision
from cab.domain.deployment import Broker
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.intents import Intent
from cab.ports import Randomness
from cab.protocol.assertions import Assertion
from cab.stores.approvals import ApprovalDecisions, ApprovalRequest, ApprovalRequests, ApprovalState, Binding


@dataclass(frozen=True, slots=True)
class Waiting:
    """The user has not answered yet."""

    request: ApprovalRequest


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The user agreed, and this request has spent the approval."""

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

    async def settle(
        self,
        intent: Intent,
        decision: Confirm,
        assertion: Assertion,
        *,
        agent: str,
        intent_hash: str,
        detail: dict[str, Any],
        policy_version: str,
        txn: str,
        now: datetime,
    ) -> Waiting | Confirmed:
        """Spend the user's approval if there is one, else ask for it. Raises: BrokerError CONFIRMATION_REFUSED; Unavailable."""
        binding = Binding(
            tenant=assertion.tenant,
            subject=assertion.subject,
            agent=agent,
            intent_hash=intent_hash,
            policy_version=policy_version,
            task_id=intent.task_id,
        )
        current = await self._requests.current(binding)
        if current is not None:
            settled = await self.spend(current, decision, now=now)
            if settled is not None:
                return settled
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
        )
        return Waiting(await self._requests.open(request, instead_of=current.id if current else None))

    async def spend(self, request: ApprovalRequest, decision: Decision, *, now: datetime) -> Waiting | Confirmed | None:
        """What became of a request: still waiting, confirmed (and now spent), or None when it ended without effect, or asks
        for a weaker login than the `decision` of today does.

        Raises: BrokerError CONFIRMATION_REFUSED while the refusal stands.
        """
        state = await self.state(request)
        strong = not isinstance(decision, Confirm) or _is_as_strong(request.acr_values, decision.acr_values)
        if state.decision is None:
            return Waiting(request) if strong and now < request.waits_until else None
        if not state.is_for_this:
            return None
        if not state.decision.approved:
            if now < request.waits_until:
                raise BrokerError(Reason.CONFIRMATION_REFUSED, "The user refused this action.")
            return None
        if not strong or not state.is_usable(now, self._valid_for):
            return None
        # Spent before the audit publish: if the publish fails, the approval is gone and the user is asked again.
        spent = await self._requests.use(request, until=request.waits_until + self._valid_for)
        return Confirmed(request) if spent else None

    async def state(self, request: ApprovalRequest) -> ApprovalState:
        decision, used = await asyncio.gather(self._decisions.read(request.id), self._requests.is_used(request))
        return ApprovalState(request, decision, used)

    def refusal(self, waiting: Waiting) -> BrokerError:
        return BrokerError(
            Reason.CONFIRMATION_REQUIRED,
            "The user must confirm this action in a browser.",
            remedy=Remedy(interaction_uri=self.interaction_uri(waiting.request)),
        )

    async def find(self, approval_id: str) -> ApprovalRequest | None:
        return await self._requests.read(approval_id)

    async def ended(self, request: ApprovalRequest) -> BrokerError:
        """Why a deferral can no longer come to anything: its approval was spent, or nobody answered in time."""
        state = await self.state(request)
        if state.used:
            return BrokerError(Reason.DEFERRAL_CODE_INVALID, "The deferral code was redeemed before.")
        return BrokerError(Reason.DEFERRAL_EXPIRED, "The request for confirmation has expired.")


def _is_as_strong(asked: str | None, wanted: str | None) -> bool:
    """Whether every login level that was good enough for the page is among those that are wanted."""
    return wanted is None or (asked is not None and set(asked.split()) <= set(wanted.split()))

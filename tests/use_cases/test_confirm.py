"""A confirmation as the exchange sees it: how long a request waits, and for how long the answer counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.support.world import deployment

from cab.adapters.document_rules import EXPIRY_FIELD
from cab.adapters.system import SystemRandomness
from cab.domain.decisions import Confirm, Permit
from cab.domain.errors import BrokerError, Reason
from cab.domain.identifiers import digest
from cab.domain.intents import Intent
from cab.protocol.jose.jws import LEEWAY
from cab.stores.approvals import (
    ApprovalDecision,
    ApprovalDecisions,
    ApprovalRequest,
    ApprovalRequests,
    ApprovalState,
    Binding,
)
from cab.stores.single_use import Kind, SingleUse
from cab.use_cases.exchange.confirm import Agreed, Confirmations, Waiting
from cab_dev.fakes.documents import InMemoryDocuments

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ACCOUNT = "the account that was connected then"
BINDING = Binding(tenant="acme", subject="alice", agent="bot", intent_hash="h", policy_version="p", task_id=None)


class Desk:
    def __init__(self) -> None:
        self.guards, self.approvals = InMemoryDocuments(), InMemoryDocuments()
        self.broker = deployment().broker
        self.waits = timedelta(seconds=self.broker.lifetimes.approval_wait_s)
        self.valid = timedelta(seconds=self.broker.lifetimes.approval_valid_s)
        self.requests = ApprovalRequests(self.guards, SingleUse(self.guards))
        self.decisions = ApprovalDecisions(self.approvals)
        self.confirmations = Confirmations(self.broker, self.requests, self.decisions, SystemRandomness())

    async def ask(self, decision: Confirm, *, instead_of: ApprovalRequest | None = None) -> ApprovalRequest:
        intent = Intent(
            action=deployment().connection_by_id["crm"].actions[0],
            connection="crm",
            location="https://crm.test",
            identifier="deal/7",
            parameters={},
            task_id=None,
            reason="why",
        )
        waiting = await self.confirmations.ask(
            BINDING,
            intent,
            decision,
            instead_of=instead_of,
            detail={"a": 1},
            txn="t",
            request_digest=None,
            front_end="acme-web",
            now=NOW,
        )
        return waiting.request

    async def answer(self, request: ApprovalRequest, *, approved: bool, at: datetime = NOW) -> None:
        decision = ApprovalDecision(approved=approved, decided_at=at, binding=request.binding.key(), account=ACCOUNT)
        await self.decisions.record(request.id, decision, by="alice", expires_at=at + timedelta(days=1))


def a_question(acr_values: str | None = None) -> Confirm:
    return Confirm(rules=("r",), prompts=("Deletes it.",), acr_values=acr_values)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_request_waits_for_as_long_as_the_configuration_says(desk: Desk) -> None:
    request = await desk.ask(a_question())
    assert request.waits_until == NOW + desk.waits
    last = request.waits_until - SECOND
    assert isinstance(await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=last), Waiting)
    assert await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=request.waits_until) is None


async def test_a_yes_counts_from_when_it_was_given_also_when_the_wait_is_over(desk: Desk) -> None:
    request = await desk.ask(a_question())
    given = request.waits_until - SECOND
    await desk.answer(request, approved=True, at=given)
    last = given + desk.valid - SECOND
    assert isinstance(await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=last), Agreed)
    assert await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=given + desk.valid) is None


async def test_a_no_stands_until_the_wait_is_over(desk: Desk) -> None:
    request = await desk.ask(a_question())
    await desk.answer(request, approved=False)
    with pytest.raises(BrokerError) as refused:
        await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=request.waits_until - SECOND)
    assert refused.value.reason is Reason.CONFIRMATION_REFUSED
    assert await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=request.waits_until) is None


async def test_what_was_spent_is_remembered_beyond_the_last_moment_at_which_it_could_count(desk: Desk) -> None:
    """A yes may be given at the end of the wait, and counts from there."""
    request = await desk.ask(a_question())
    await desk.answer(request, approved=True)
    agreed = await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=NOW)
    assert isinstance(agreed, Agreed)
    assert await desk.confirmations.spend(agreed) is True
    assert await desk.confirmations.spend(agreed) is False
    assert await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=NOW) is None
    mark = await desk.guards.read(f"single_use/{digest('acme', Kind.APPROVAL.value, 'cab', request.id)}")
    assert mark is not None
    assert mark.fields[EXPIRY_FIELD] == request.waits_until + desk.valid + LEEWAY


@pytest.mark.parametrize(
    ("asked", "wanted", "good_enough"),
    [
        (None, None, True),
        ("gold", None, True),
        ("gold", "gold silver", True),
        (None, "gold", False),
        ("gold silver", "gold", False),
    ],
)
async def test_an_answer_after_a_weaker_login_than_policy_wants_now_does_not_count(
    desk: Desk, asked: str | None, wanted: str | None, good_enough: bool
) -> None:
    request = await desk.ask(a_question(asked))
    found = await desk.confirmations.answer_to(request, a_question(wanted), account=ACCOUNT, now=NOW)
    assert (found is not None) is good_enough
    await desk.answer(request, approved=True)
    found = await desk.confirmations.answer_to(request, a_question(wanted), account=ACCOUNT, now=NOW)
    assert (found is not None) is good_enough


async def test_a_yes_counts_also_where_policy_would_not_ask_any_more(desk: Desk) -> None:
    request = await desk.ask(a_question())
    await desk.answer(request, approved=True)
    assert isinstance(await desk.confirmations.answer_to(request, Permit(rules=()), account=ACCOUNT, now=NOW), Agreed)


async def test_a_yes_for_one_account_is_none_for_another_and_a_no_stays_a_no(desk: Desk) -> None:
    request = await desk.ask(a_question())
    await desk.answer(request, approved=True)
    assert await desk.confirmations.answer_to(request, a_question(), account="another", now=NOW) is None
    assert isinstance(await desk.confirmations.answer_to(request, a_question(), account=ACCOUNT, now=NOW), Agreed)
    ended = await desk.confirmations.ended(request, account="another")
    assert (ended.reason, ended.detail) == (
        Reason.DEFERRAL_EXPIRED,
        "The user agreed with another account than is connected now.",
    )
    other = Desk()
    request = await other.ask(a_question())
    await other.answer(request, approved=False)
    with pytest.raises(BrokerError) as refused:
        await other.confirmations.answer_to(request, a_question(), account="another", now=NOW)
    assert refused.value.reason is Reason.CONFIRMATION_REFUSED


async def test_why_a_request_can_come_to_nothing_any_more(desk: Desk) -> None:
    request = await desk.ask(a_question())
    assert (await desk.confirmations.ended(request, account=ACCOUNT)).reason is Reason.DEFERRAL_EXPIRED
    await desk.requests.spend(request, until=NOW)
    assert (await desk.confirmations.ended(request, account=ACCOUNT)).reason is Reason.DEFERRAL_CODE_INVALID


async def test_the_user_is_sent_to_the_page_of_the_request(desk: Desk) -> None:
    request = await desk.ask(a_question())
    refusal = desk.confirmations.refusal(Waiting(request))
    assert refusal.remedy.interaction_uri == f"{desk.broker.origin}/approvals/{request.id}"
    found = await desk.confirmations.look_up(request.id, tenant=BINDING.tenant)
    assert found == ApprovalState(request)
    assert await desk.confirmations.look_up("another", tenant=BINDING.tenant) is None
    assert await desk.confirmations.current(BINDING) == request
    after = await desk.ask(a_question(), instead_of=request)
    assert await desk.confirmations.current(BINDING) == after

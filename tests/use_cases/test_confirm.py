"""A confirmation as the exchange sees it: how long a request waits, and for how long the answer counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.support.world import deployment

from cab.adapters.system import SystemRandomness
from cab.domain.decisions import Confirm, Permit
from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import Intent
from cab.stores.approvals import ApprovalDecision, ApprovalDecisions, ApprovalRequests, Binding, Question
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
        self.requests = ApprovalRequests(self.guards)
        self.decisions = ApprovalDecisions(self.approvals)
        self.confirmations = Confirmations(self.broker, self.requests, self.decisions, SystemRandomness())

    async def ask(self, decision: Confirm, *, instead_of: Question | None = None) -> Question:
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
        question = await self.requests.find(waiting.request.id)
        assert question is not None
        return question

    async def answer(self, question: Question, *, approved: bool, at: datetime = NOW) -> None:
        request = question.request
        decision = ApprovalDecision(approved=approved, decided_at=at, binding=request.binding.key(), account=ACCOUNT)
        await self.decisions.record(request, decision, by="alice", expires_at=at + timedelta(days=1))


def a_question(acr_values: str | None = None) -> Confirm:
    return Confirm(rules=("r",), prompts=("Deletes it.",), acr_values=acr_values)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_request_waits_for_as_long_as_the_configuration_says(desk: Desk) -> None:
    question = await desk.ask(a_question())
    assert question.request.waits_until == NOW + desk.waits
    last = question.request.waits_until - SECOND
    assert isinstance(await desk.confirmations.answer_to(question, a_question(), account=ACCOUNT, now=last), Waiting)
    assert (
        await desk.confirmations.answer_to(question, a_question(), account=ACCOUNT, now=question.request.waits_until)
        is None
    )


async def test_a_yes_counts_from_when_it_was_given_also_when_the_wait_is_over(desk: Desk) -> None:
    question = await desk.ask(a_question())
    given = question.request.waits_until - SECOND
    await desk.answer(question, approved=True, at=given)
    last = given + desk.valid - SECOND
    assert isinstance(await desk.confirmations.answer_to(question, a_question(), account=ACCOUNT, now=last), Agreed)
    assert await desk.confirmations.answer_to(question, a_question(), account=ACCOUNT, now=given + desk.valid) is None


async def test_a_no_stands_until_the_wait_is_over(desk: Desk) -> None:
    question = await desk.ask(a_question())
    await desk.answer(question, approved=False)
    with pytest.raises(BrokerError) as refused:
        await desk.confirmations.answer_to(
            question, a_question(), account=ACCOUNT, now=question.request.waits_until - SECOND
        )
    assert refused.value.reason is Reason.CONFIRMATION_REFUSED
    assert (
        await desk.confirmations.answer_to(question, a_question(), account=ACCOUNT, now=question.request.waits_until)
        is None
    )


async def test_a_no_to_something_else_is_none(desk: Desk) -> None:
    question = await desk.ask(a_question())
    no = ApprovalDecision(approved=False, decided_at=NOW, binding="what stood there before", account=ACCOUNT)
    await desk.decisions.record(question.request, no, by="alice", expires_at=NOW + desk.valid)
    assert await desk.confirmations.answer_to(question, a_question(), account=ACCOUNT, now=NOW) is None


async def test_an_instance_knows_what_it_has_asked_for_as_long_as_an_answer_may_count(desk: Desk) -> None:
    assert not desk.confirmations.is_asked_here(BINDING, NOW)
    question = await desk.ask(a_question())
    last = question.request.waits_until + desk.valid
    assert desk.confirmations.is_asked_here(BINDING, last - SECOND)
    assert not desk.confirmations.is_asked_here(BINDING, last)
    other = Confirmations(desk.broker, desk.requests, desk.decisions, SystemRandomness())
    assert not other.is_asked_here(BINDING, NOW)


async def test_an_answer_that_was_spent_never_counts_again(desk: Desk) -> None:
    question = await desk.ask(a_question())
    await desk.answer(question, approved=True)
    agreed = await desk.confirmations.answer_to(question, a_question(), account=ACCOUNT, now=NOW)
    assert isinstance(agreed, Agreed)
    assert await desk.confirmations.spend(agreed) is True
    assert await desk.confirmations.spend(agreed) is False
    assert await desk.confirmations.current(BINDING) is None
    again = await desk.ask(a_question())
    assert again.request.id != question.request.id
    assert isinstance(await desk.confirmations.answer_to(again, a_question(), account=ACCOUNT, now=NOW), Waiting)


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
    question = await desk.ask(a_question(asked))
    found = await desk.confirmations.answer_to(question, a_question(wanted), account=ACCOUNT, now=NOW)
    assert (found is not None) is good_enough
    await desk.answer(question, approved=True)
    found = await desk.confirmations.answer_to(question, a_question(wanted), account=ACCOUNT, now=NOW)
    assert (found is not None) is good_enough


async def test_a_yes_counts_also_where_policy_would_not_ask_any_more(desk: Desk) -> None:
    question = await desk.ask(a_question())
    await desk.answer(question, approved=True)
    assert isinstance(await desk.confirmations.answer_to(question, Permit(rules=()), account=ACCOUNT, now=NOW), Agreed)


async def test_a_yes_for_one_account_is_none_for_another_and_a_no_stays_a_no(desk: Desk) -> None:
    question = await desk.ask(a_question())
    await desk.answer(question, approved=True)
    assert await desk.confirmations.answer_to(question, a_question(), account="another", now=NOW) is None
    assert isinstance(await desk.confirmations.answer_to(question, a_question(), account=ACCOUNT, now=NOW), Agreed)
    said = await desk.decisions.read(question.request.id)
    ended = desk.confirmations.ended(question, said, account="another", wait_over=False)
    assert (ended.reason, ended.detail) == (
        Reason.DEFERRAL_EXPIRED,
        "The user agreed with another account than is connected now.",
    )
    other = Desk()
    question = await other.ask(a_question())
    await other.answer(question, approved=False)
    with pytest.raises(BrokerError) as refused:
        await other.confirmations.answer_to(question, a_question(), account="another", now=NOW)
    assert refused.value.reason is Reason.CONFIRMATION_REFUSED


async def test_why_a_deferral_can_come_to_nothing_any_more(desk: Desk) -> None:
    question = await desk.ask(a_question())

    def why(question: Question | None, said: ApprovalDecision | None, *, wait_over: bool) -> Reason:
        return desk.confirmations.ended(question, said, account=ACCOUNT, wait_over=wait_over).reason

    assert why(question, None, wait_over=True) is Reason.DEFERRAL_EXPIRED
    assert why(None, None, wait_over=True) is Reason.DEFERRAL_EXPIRED, "nobody answered, and it was asked again since"
    assert why(None, None, wait_over=False) is Reason.DEFERRAL_CODE_INVALID
    await desk.answer(question, approved=True)
    assert await desk.requests.spend(question)
    for wait_over in (False, True):
        gone = await desk.confirmations.look_up(question.request.id)
        assert why(*gone, wait_over=wait_over) is Reason.DEFERRAL_CODE_INVALID


async def test_the_user_is_sent_to_the_page_of_the_request(desk: Desk) -> None:
    question = await desk.ask(a_question())
    refusal = desk.confirmations.refusal(Waiting(question.request))
    assert refusal.remedy.interaction_uri == f"{desk.broker.origin}/approvals/{question.request.id}"
    assert await desk.confirmations.look_up(question.request.id) == (question, None)
    assert await desk.confirmations.look_up("another") == (None, None)
    assert await desk.confirmations.current(BINDING) == question
    after = await desk.ask(a_question(), instead_of=question)
    assert await desk.confirmations.current(BINDING) == after

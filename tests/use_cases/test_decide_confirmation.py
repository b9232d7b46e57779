"""Decisions under concurrency and outages: one stands, and none without its record."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from datetime import timedelta

import pytest
from tests.transport.acme_pages import AcmePages

from cab.adapters.document_rules import EXPIRY_FIELD
from cab.domain import audit
from cab.domain.errors import BrokerError
from cab.ports import Replace, Unavailable
from cab.stores.approvals import ApprovalRequest, decision_path
from cab.stores.sessions import Session
from cab.use_cases.audit.auditor import Facts, RequestContext
from cab.use_cases.people.approvals import ApprovalStanding, ApprovalView, DecideConfirmation
from cab.use_cases.people.login import LoginDemand
from cab_dev.fakes.audit_log import InMemoryAuditLog
from cab_dev.fakes.documents import Outage


class OrderedLog(InMemoryAuditLog):
    """Notes whether a decision stood already when its event was published."""

    def __init__(self, acme: AcmePages, approval_id: str) -> None:
        super().__init__()
        self._acme = acme
        self._approval_id = approval_id
        self.decided_before: list[bool] = []

    async def publish(self, event: audit.AuditEvent, **_: object) -> None:
        self.decided_before.append(await self._acme.decisions.read(self._approval_id) is not None)
        await super().publish(event)


class Desk:
    """One pending request of alice, and what she can do with it."""

    def __init__(self) -> None:
        self.acme = AcmePages()
        self.request: ApprovalRequest = self.acme.ask_approval("alice")
        self.log = OrderedLog(self.acme, self.request.id)
        self.confirmations = DecideConfirmation(
            self.acme.deployment,
            requests=self.acme.requests,
            decisions=self.acme.decisions,
            grants=self.acme.grants,
            audit_log=self.log,
            clock=self.acme.clock,
        )

    def session(self, login: str = "alice") -> Session:
        now = self.acme.clock.now()
        return Session(
            tenant="acme",
            subject=self.acme.subject(login),
            idp_issuer="http://127.0.0.1:8081",
            groups=[],
            auth_time=now,
            acr=None,
            amr=[],
            display_name=None,
            csrf="c",
            expires_at=now + timedelta(hours=1),
        )

    async def decide(self, *, approved: bool) -> ApprovalView | LoginDemand:
        facts = Facts(audit.EventType.REQUEST_REFUSED, RequestContext("txn"), self.acme.clock.now())
        stored = await self.confirmations.look_up(self.request.id)
        return await self.confirmations.decide(self.session(), stored, approved=approved, account=None, facts=facts)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def other_desk() -> Desk:
    return Desk()


async def test_of_a_hundred_decisions_at_once_exactly_one_stands(desk: Desk) -> None:
    desk.acme.approvals.delay_s = 0.001

    views = await asyncio.gather(*(desk.decide(approved=number % 2 == 0) for number in range(100)))

    stands = await desk.acme.decisions.read(desk.request.id)
    assert stands is not None
    expected = ApprovalStanding.APPROVED if stands.approved else ApprovalStanding.REFUSED
    assert all(isinstance(view, ApprovalView) and view.standing is expected for view in views)


async def test_a_request_is_not_shown_to_a_login_that_grew_old(desk: Desk) -> None:
    session, stored = desk.session(), await desk.confirmations.look_up(desk.request.id)
    assert isinstance(await desk.confirmations.view(session, stored), ApprovalView)
    old = dataclasses.replace(session, auth_time=desk.acme.clock.now() - timedelta(seconds=301))
    assert isinstance(await desk.confirmations.view(old, stored), LoginDemand)


async def test_a_request_about_a_connection_that_is_no_longer_configured_can_be_looked_at(desk: Desk) -> None:
    binding = dataclasses.replace(desk.request.binding, task_id="t-82")
    request = dataclasses.replace(desk.request, id="B" * 22, binding=binding, connection="gone")
    await desk.acme.requests.open(request, instead_of=None)
    view = await desk.confirmations.view(desk.session(), await desk.confirmations.look_up(request.id))
    assert isinstance(view, ApprovalView)
    assert (view.connection, view.action) == (None, None)


async def test_the_record_is_durable_before_the_decision_takes_effect(desk: Desk) -> None:
    await desk.decide(approved=True)

    assert desk.log.decided_before == [False]
    event_id = uuid.UUID(str(desk.log.events[-1].event_id))
    assert (event_id.variant, event_id.version) == (uuid.RFC_4122, 7)
    assert await desk.acme.decisions.read(desk.request.id) is not None


async def test_who_answered_first_is_shown_it_without_asking_the_store_again(desk: Desk) -> None:
    """An outage just after the write would tell a person that their answer failed, when it counts."""
    stored = await desk.confirmations.look_up(desk.request.id)
    desk.acme.approvals.outage = Outage(frozenset({"read"}), skip=1)  # the log of this desk looks once
    facts = Facts(audit.EventType.REQUEST_REFUSED, RequestContext("txn"), desk.acme.clock.now())
    view = await desk.confirmations.decide(desk.session(), stored, approved=True, account=None, facts=facts)
    assert isinstance(view, ApprovalView)
    assert view.standing is ApprovalStanding.APPROVED


async def test_an_answer_outlives_all_who_may_ask_for_it_by_an_hour(desk: Desk) -> None:
    await desk.decide(approved=True)
    stored = await desk.acme.approvals.read(decision_path(desk.request.id))
    assert stored is not None
    valid = timedelta(seconds=desk.acme.deployment.broker.lifetimes.approval_valid_s)
    assert stored.fields[EXPIRY_FIELD] == desk.request.waits_until + valid + timedelta(hours=1)


async def test_a_decision_whose_record_fails_has_no_effect_and_can_be_repeated(desk: Desk) -> None:
    desk.log.is_down = True
    with pytest.raises(Unavailable):
        await desk.decide(approved=True)
    assert await desk.acme.decisions.read(desk.request.id) is None

    desk.log.is_down = False
    await desk.decide(approved=True)

    decided = await desk.acme.decisions.read(desk.request.id)
    assert decided is not None
    assert decided.approved
    assert len({event.event_id for event in desk.log.events}) == 1


async def test_approval_and_refusal_are_different_events_of_the_requests_time(desk: Desk, other_desk: Desk) -> None:
    await desk.decide(approved=True)
    first = desk.log.events[-1].event_id
    await other_desk.decide(approved=False)
    second = other_desk.log.events[-1].event_id

    assert first != second
    for event_id in (first, second):
        parsed = uuid.UUID(event_id)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == int(desk.request.requested_at.timestamp() * 1000)


async def test_a_question_whose_words_do_not_fit_its_hash_is_neither_shown_nor_decided(desk: Desk) -> None:
    """Otherwise a person would read one thing and agree to another."""
    guards = desk.acme.guards
    path = f"approval_requests/{desk.request.binding.key()}"
    stored = await guards.read(path)
    assert stored is not None
    harmless = stored.fields["detail"].replace("opportunity/0061", "opportunity/9999")
    await guards.write(Replace(path, stored.fields | {"detail": harmless}, stored.version))
    with pytest.raises(BrokerError, match="not_found"):
        await desk.confirmations.view(desk.session(), await desk.confirmations.look_up(desk.request.id))
    with pytest.raises(BrokerError, match="not_found"):
        await desk.decide(approved=True)
    assert await desk.acme.decisions.read(desk.request.id) is None
    assert desk.log.events == []

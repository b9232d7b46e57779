"""Every answer of the broker becomes one class of error, by its remedy; texts for models say nothing that a model may use."""

from __future__ import annotations

import re

import pytest
from tests.running_stack import ROOT

from cab_client import (
    AssertionExpired,
    BrokerFailed,
    CabError,
    ConfirmationNeeded,
    ConnectionNeeded,
    Intent,
    Misconfigured,
    NeedsUser,
    OutcomeUnknown,
    Refused,
    StepUpNeeded,
    TaskExhausted,
    TryLater,
    Unanswered,
    UserRefused,
)
from cab_client.errors import error_from
from cab_client.testing import FakeBroker

ORIGIN = "https://cab.example"
ROWS = re.findall(
    r"^\| `(\w+)` \| `(\w+)` \| (\d{3}) \| .+ \|$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE
)
REMEDIES = {
    "confirmation_required": ConfirmationNeeded,
    "authorization_pending": ConfirmationNeeded,
    "polled_too_fast": ConfirmationNeeded,
    "grant_missing": ConnectionNeeded,
    "grant_needs_reauth": ConnectionNeeded,
    "grant_revoked": ConnectionNeeded,
    "platform_asks_user": NeedsUser,
    "step_up_required": StepUpNeeded,
    "subject_token_expired": AssertionExpired,
    "confirmation_refused": UserRefused,
    "deferral_expired": Unanswered,
    "deferral_code_invalid": Unanswered,
    "task_exhausted": TaskExhausted,
    "policy_denied": Refused,
    "intent_outside_task": Refused,
    "action_not_allowed_for_agent": Refused,
    "policy_error": BrokerFailed,
    "call_outcome_unknown": OutcomeUnknown,
    "call_already_attempted": OutcomeUnknown,
}


def expected(reason: str, error: str) -> type[CabError]:
    if reason in REMEDIES:
        return REMEDIES[reason]
    return {"temporarily_unavailable": TryLater, "server_error": BrokerFailed}.get(error, Misconfigured)


@pytest.mark.parametrize(("reason", "error", "status"), ROWS, ids=lambda value: value)
def test_each_reason_of_the_api_document_has_the_class_of_its_remedy(reason: str, error: str, status: str) -> None:
    body = {"error": error, "reason_code": reason, "txn": "T-1", "error_description": "Words."}
    found = error_from(int(status), body, {}, origin=ORIGIN)
    assert type(found) is expected(reason, error)
    assert (found.reason_code, found.txn) == (reason, "T-1")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("interaction_required", NeedsUser),
        ("insufficient_user_authentication", StepUpNeeded),
        ("access_denied", UserRefused),
        ("invalid_authorization_details", Refused),
        ("temporarily_unavailable", TryLater),
        ("invalid_request", Misconfigured),
        ("something_new", Misconfigured),
    ],
)
def test_a_reason_of_a_newer_broker_is_treated_by_its_error(error: str, kind: type[CabError]) -> None:
    found = error_from(400, {"error": error, "reason_code": "quite_new", "more": {}}, {}, origin=ORIGIN)
    assert type(found) is kind
    assert found.reason_code == "quite_new"


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_in_the_way_is_no_answer_of_the_broker(status: int) -> None:
    assert type(error_from(status, None, {}, origin=ORIGIN)) is TryLater


@pytest.mark.parametrize(
    "uri",
    ["https://evil.example/approvals/1", "https://cab.example.evil.example/", "javascript:alert(1)", 7, None],
)
def test_people_are_sent_nowhere_but_to_the_broker(uri: object) -> None:
    body = {"error": "interaction_required", "reason_code": "grant_missing", "interaction_uri": uri}
    found = error_from(400, body, {}, origin=ORIGIN)
    assert isinstance(found, ConnectionNeeded)
    assert found.uri is None


def test_the_model_is_told_neither_link_nor_rule_nor_reference() -> None:
    body = {
        "error": "interaction_required",
        "reason_code": "confirmation_required",
        "error_description": "The rule big-deals asks.",
        "interaction_uri": f"{ORIGIN}/approvals/77",
        "txn": "T-1",
    }
    found = error_from(400, body, {}, origin=ORIGIN)
    assert not re.search("approvals|T-1|big-deals|http", found.for_model())
    assert f"{ORIGIN}/approvals/77" in found.for_user()
    assert "approvals" not in str(found)
    assert isinstance(found, NeedsUser)
    assert found.public()["auth_url"] == f"{ORIGIN}/approvals/77"


def test_what_a_step_up_wants_is_said() -> None:
    body = {
        "error": "insufficient_user_authentication",
        "reason_code": "step_up_required",
        "acr_values": "phr",
        "max_age": 300,
    }
    found = error_from(400, body, {}, origin=ORIGIN)
    assert isinstance(found, StepUpNeeded)
    assert (found.acr_values, found.max_age) == ("phr", 300)


def test_a_question_that_was_kept_sends_people_nowhere_else_either(cab_fake: FakeBroker) -> None:
    cab_fake.ask("crm.opportunity.delete")
    agent = cab_fake.agent("sales-assistant")
    intent = Intent("crm.opportunity.delete", on="crm", identifier="opportunity/1")
    with pytest.raises(ConfirmationNeeded) as asked:
        agent.permit(intent, assertion=cab_fake.user("alice"))
    kept = asked.value.to_json()
    assert agent.pending(kept).uri == asked.value.uri
    assert agent.pending(kept.replace("https://cab.fake/", "https://evil.example/")).uri is None

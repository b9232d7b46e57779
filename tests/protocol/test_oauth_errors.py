"""The one table from reasons to codes and statuses, against docs/api.md's error table written out again by hand."""

from __future__ import annotations

import pytest

from cab.domain.errors import BrokerError, Reason, Remedy
from cab.protocol.oauth_errors import TABLE, error_body, error_headers, status_of

# docs/api.md: error, HTTP status, reason codes
CONTRACT: dict[tuple[str, int], str] = {
    ("invalid_request", 400): "parameter_missing parameter_repeated parameter_invalid subject_token_invalid "
    "subject_token_expired actor_token_invalid actor_mismatch may_act_violated",
    ("invalid_request", 405): "method_not_allowed",
    ("invalid_request", 413): "body_too_large",
    ("invalid_request", 415): "unsupported_media_type",
    ("invalid_client", 401): "client_authentication_failed client_assertion_replayed",
    ("unauthorized_client", 400): "grant_type_not_allowed",
    ("unsupported_grant_type", 400): "grant_type_unknown",
    ("invalid_scope", 400): "scope_not_grantable",
    ("invalid_target", 400): "target_missing target_unknown target_repeated target_not_allowed",
    ("invalid_authorization_details", 400): "intent_missing intent_malformed intent_outside_task task_exhausted "
    "location_mismatch action_not_allowed_for_agent policy_denied policy_error",
    ("insufficient_user_authentication", 400): "step_up_required",
    ("interaction_required", 400): "confirmation_required grant_missing grant_needs_reauth grant_revoked",
    ("authorization_pending", 400): "authorization_pending",
    ("slow_down", 400): "polled_too_fast",
    ("expired_token", 400): "deferral_expired",
    ("access_denied", 400): "confirmation_refused",
    ("invalid_grant", 400): "assertion_invalid deferral_code_invalid",
    ("invalid_dpop_proof", 400): "dpop_proof_invalid",
    ("use_dpop_nonce", 400): "dpop_nonce_required",
    ("temporarily_unavailable", 429): "rate_limited",
    ("temporarily_unavailable", 503): "audit_unavailable store_unavailable provider_unavailable idp_unavailable "
    "policy_unavailable overloaded policy_version_skew tool_definition_changed",
    ("server_error", 500): "internal_error",
    ("invalid_token", 401): "call_token_invalid",
    ("invalid_request", 404): "tool_unknown call_not_configured",
    ("invalid_request", 409): "call_already_attempted call_id_reused outcome_already_reported",
    ("temporarily_unavailable", 504): "call_outcome_unknown",
    ("server_error", 502): "response_too_large response_type_not_allowed redirect_refused secret_echoed",
}
ROWS = [(error, status, code) for (error, status), codes in CONTRACT.items() for code in codes.split()]


@pytest.mark.requirement("RFC8693-2.2.2-1")
@pytest.mark.requirement("RFC6749-5.2-1")
@pytest.mark.parametrize(("error", "status", "code"), ROWS, ids=[row[2] for row in ROWS])
def test_every_row_of_the_contract_stands_in_the_table(error: str, status: int, code: str) -> None:
    reason = Reason(code)
    assert TABLE[reason] == (error, status)
    assert status_of(reason) == status
    assert error_body(BrokerError(reason), txn="t") == {"error": error, "reason_code": code, "txn": "t"}


def test_every_reason_has_exactly_one_entry() -> None:
    assert TABLE.keys() == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_retry_after_goes_with_what_passes_by_itself_and_a_challenge_with_a_basic_401(reason: Reason) -> None:
    headers = error_headers(BrokerError(reason))
    assert ("Retry-After" in headers) == (status_of(reason) in (429, 503))
    assert "WWW-Authenticate" not in headers
    assert ("WWW-Authenticate" in error_headers(BrokerError(reason), tried_basic=True)) == (
        TABLE[reason][0] == "invalid_client"
    )
    assert all(value.isdigit() and int(value) > 0 for name, value in headers.items() if name == "Retry-After")


def test_a_remedy_becomes_members_and_headers() -> None:
    remedy = Remedy(
        retry_after_s=7,
        interaction_uri="https://cab.test/connect",
        acr_values="gold",
        max_age_s=300,
        deferral_code="d",
        interval_s=2,
        expires_in_s=600,
        dpop_nonce="n",
        member="scope",
    )
    error = BrokerError(Reason.RATE_LIMITED, "A sentence.", remedy=remedy)
    assert error_body(error, txn="t") == {
        "error": "temporarily_unavailable",
        "reason_code": "rate_limited",
        "error_description": "A sentence.",
        "txn": "t",
        "interaction_uri": "https://cab.test/connect",
        "acr_values": "gold",
        "max_age": 300,
        "deferral_code": "d",
        "interval": 2,
        "expires_in": 600,
        "parameter": "scope",
    }
    assert error_headers(error) == {"Retry-After": "7", "DPoP-Nonce": "n"}


def test_a_remedy_of_zero_seconds_is_said_not_left_out() -> None:
    body = error_body(BrokerError(Reason.AUTHORIZATION_PENDING, remedy=Remedy(expires_in_s=0, interval_s=1)), txn="t")
    assert (body["expires_in"], body["interval"]) == (0, 1)

"""The one table from reasons to OAuth error codes and HTTP statuses, and the JSON body they make (RFC 6749 section 5.2)."""

from __future__ import annotations

from typing import Any, Final

from cab.domain.errors import BrokerError, Reason

INVALID_REQUEST = "invalid_request"
INVALID_DETAILS = "invalid_authorization_details"  # RFC 9396 section 5
INTERACTION = "interaction_required"
UNAVAILABLE = "temporarily_unavailable"
DEFAULT_RETRY_AFTER_S: Final = 2

TABLE: Final[dict[Reason, tuple[str, int]]] = {
    # RFC 8693 section 2.2.2: a bad or unacceptable subject or actor token is invalid_request
    Reason.PARAMETER_MISSING: (INVALID_REQUEST, 400),
    Reason.PARAMETER_REPEATED: (INVALID_REQUEST, 400),
    Reason.PARAMETER_INVALID: (INVALID_REQUEST, 400),
    Reason.SUBJECT_TOKEN_INVALID: (INVALID_REQUEST, 400),
    Reason.SUBJECT_TOKEN_EXPIRED: (INVALID_REQUEST, 400),
    Reason.ACTOR_TOKEN_INVALID: (INVALID_REQUEST, 400),
    Reason.ACTOR_MISMATCH: (INVALID_REQUEST, 400),
    Reason.MAY_ACT_VIOLATED: (INVALID_REQUEST, 400),
    Reason.METHOD_NOT_ALLOWED: (INVALID_REQUEST, 405),
    Reason.BODY_TOO_LARGE: (INVALID_REQUEST, 413),
    Reason.UNSUPPORTED_MEDIA_TYPE: (INVALID_REQUEST, 415),
    Reason.NOT_FOUND: (INVALID_REQUEST, 404),
    Reason.CLIENT_AUTHENTICATION_FAILED: ("invalid_client", 401),
    Reason.CLIENT_ASSERTION_REPLAYED: ("invalid_client", 401),
    Reason.GRANT_TYPE_NOT_ALLOWED: ("unauthorized_client", 400),
    Reason.GRANT_TYPE_UNKNOWN: ("unsupported_grant_type", 400),
    Reason.SCOPE_NOT_GRANTABLE: ("invalid_scope", 400),
    Reason.TARGET_MISSING: ("invalid_target", 400),
    Reason.TARGET_UNKNOWN: ("invalid_target", 400),
    Reason.TARGET_REPEATED: ("invalid_target", 400),
    Reason.TARGET_NOT_ALLOWED: ("invalid_target", 400),
    Reason.INTENT_MISSING: (INVALID_DETAILS, 400),
    Reason.INTENT_MALFORMED: (INVALID_DETAILS, 400),
    Reason.INTENT_OUTSIDE_TASK: (INVALID_DETAILS, 400),
    Reason.TASK_EXHAUSTED: (INVALID_DETAILS, 400),
    Reason.LOCATION_MISMATCH: (INVALID_DETAILS, 400),
    Reason.ACTION_NOT_ALLOWED_FOR_AGENT: (INVALID_DETAILS, 400),
    Reason.POLICY_DENIED: (INVALID_DETAILS, 400),
    Reason.POLICY_ERROR: (INVALID_DETAILS, 400),
    Reason.STEP_UP_REQUIRED: ("insufficient_user_authentication", 400),
    Reason.CONFIRMATION_REQUIRED: (INTERACTION, 400),
    Reason.GRANT_MISSING: (INTERACTION, 400),
    Reason.GRANT_NEEDS_REAUTH: (INTERACTION, 400),
    Reason.GRANT_REVOKED: (INTERACTION, 400),
    Reason.AUTHORIZATION_PENDING: ("authorization_pending", 400),
    Reason.POLLED_TOO_FAST: ("slow_down", 400),
    Reason.DEFERRAL_EXPIRED: ("expired_token", 400),
    Reason.CONFIRMATION_REFUSED: ("access_denied", 400),
    Reason.ASSERTION_INVALID: ("invalid_grant", 400),
    Reason.DEFERRAL_CODE_INVALID: ("invalid_grant", 400),
    Reason.DPOP_PROOF_INVALID: ("invalid_dpop_proof", 400),
    Reason.DPOP_NONCE_REQUIRED: ("use_dpop_nonce", 400),
    Reason.UNSUPPORTED_TOKEN_TYPE: ("unsupported_token_type", 400),
    # The pages people see; the codes serve callers that ask for JSON
    Reason.CSRF_INVALID: (INVALID_REQUEST, 403),
    Reason.STATE_INVALID: (INVALID_REQUEST, 400),
    Reason.STATE_OVER: (INVALID_REQUEST, 400),
    Reason.STATE_USED: (INVALID_REQUEST, 400),
    Reason.ISSUER_MISMATCH: (INVALID_REQUEST, 400),
    Reason.LOGIN_FAILED: ("access_denied", 403),
    Reason.LOGIN_CANCELLED: ("access_denied", 403),
    Reason.CONSENT_REFUSED: ("access_denied", 400),
    Reason.AUTHORIZATION_FAILED: (INVALID_REQUEST, 400),
    Reason.CLIENT_MISCONFIGURED: (INVALID_REQUEST, 400),
    Reason.NO_AUTHORIZATION_CODE_GRANT: ("unsupported_response_type", 400),  # RFC 6749 section 4.1.2.1
    # Calls that the broker executes (docs/api.md)
    Reason.CALL_TOKEN_INVALID: ("invalid_token", 401),  # RFC 6750 section 3.1
    Reason.TOOL_UNKNOWN: (INVALID_REQUEST, 404),
    Reason.CALL_NOT_CONFIGURED: (INVALID_REQUEST, 404),
    Reason.CALL_ALREADY_ATTEMPTED: (INVALID_REQUEST, 409),
    Reason.CALL_ID_REUSED: (INVALID_REQUEST, 409),
    Reason.OUTCOME_ALREADY_REPORTED: (INVALID_REQUEST, 409),
    Reason.CALL_OUTCOME_UNKNOWN: (UNAVAILABLE, 504),
    Reason.POLICY_VERSION_SKEW: (UNAVAILABLE, 503),
    Reason.PLATFORM_ASKS_USER: (INTERACTION, 400),
    Reason.TOOL_DEFINITION_CHANGED: (UNAVAILABLE, 503),
    Reason.RESPONSE_TOO_LARGE: ("server_error", 502),
    Reason.RESPONSE_TYPE_NOT_ALLOWED: ("server_error", 502),
    Reason.REDIRECT_REFUSED: ("server_error", 502),
    Reason.SECRET_ECHOED: ("server_error", 502),
    Reason.RATE_LIMITED: (UNAVAILABLE, 429),
    Reason.OVERLOADED: (UNAVAILABLE, 503),
    Reason.AUDIT_UNAVAILABLE: (UNAVAILABLE, 503),
    Reason.STORE_UNAVAILABLE: (UNAVAILABLE, 503),
    Reason.PROVIDER_UNAVAILABLE: (UNAVAILABLE, 503),
    Reason.IDP_UNAVAILABLE: (UNAVAILABLE, 503),
    Reason.POLICY_UNAVAILABLE: (UNAVAILABLE, 503),
    Reason.INTERNAL_ERROR: ("server_error", 500),
}


def status_of(reason: Reason) -> int:
    return TABLE[reason][1]


def error_body(error: BrokerError, *, txn: str) -> dict[str, Any]:
    """The JSON error: standard members, `reason_code`, `txn`, and what the caller can do about it."""
    body: dict[str, Any] = {"error": TABLE[error.reason][0], "reason_code": error.reason.value, "txn": txn}
    if error.detail:
        body["error_description"] = error.detail
    remedy = error.remedy
    members = {
        "interaction_uri": remedy.interaction_uri,
        "acr_values": remedy.acr_values,
        "max_age": remedy.max_age_s,
        "deferral_code": remedy.deferral_code,
        "interval": remedy.interval_s,
        "expires_in": remedy.expires_in_s,
        "parameter": remedy.member,
    }
    return body | {name: value for name, value in members.items() if value is not None}


def error_headers(error: BrokerError, *, tried_basic: bool = False) -> dict[str, str]:
    """`Retry-After` on everything that passes by itself, the DPoP nonce, and the challenge of RFC 6749 section 5.2.

    A call whose outcome is unknown does not pass by waiting: somebody has to look.

    The challenge only answers a client that tried HTTP Basic: others would take it for what they should use instead.
    """
    headers: dict[str, str] = {}
    if TABLE[error.reason][0] == UNAVAILABLE and error.reason is not Reason.CALL_OUTCOME_UNKNOWN:
        headers["Retry-After"] = str(error.remedy.retry_after_s or DEFAULT_RETRY_AFTER_S)
    if tried_basic and TABLE[error.reason][0] == "invalid_client":
        headers["WWW-Authenticate"] = 'Basic realm="cab"'
    if error.remedy.dpop_nonce is not None:
        headers["DPoP-Nonce"] = error.remedy.dpop_nonce
    return headers

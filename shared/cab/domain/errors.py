"""Why the broker refuses: one closed list of reasons, and the one exception that carries them.

The domain knows nothing of OAuth codes or HTTP; `cab.protocol.oauth_errors` holds the one table that maps reasons to both.
"""

from __future__ import annotations

from enum import StrEnum

from cab.values import immutable


class Reason(StrEnum):
    """Stable `reason_code` values of the public contract. Log, audit and tests use these; members may be added, never renamed."""

    PARAMETER_MISSING = "parameter_missing"
    PARAMETER_REPEATED = "parameter_repeated"
    PARAMETER_INVALID = "parameter_invalid"
    SUBJECT_TOKEN_INVALID = "subject_token_invalid"
    SUBJECT_TOKEN_EXPIRED = "subject_token_expired"
    ACTOR_TOKEN_INVALID = "actor_token_invalid"
    ACTOR_MISMATCH = "actor_mismatch"
    MAY_ACT_VIOLATED = "may_act_violated"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    NOT_FOUND = "not_found"
    CLIENT_AUTHENTICATION_FAILED = "client_authentication_failed"
    CLIENT_ASSERTION_REPLAYED = "client_assertion_replayed"
    GRANT_TYPE_NOT_ALLOWED = "grant_type_not_allowed"
    GRANT_TYPE_UNKNOWN = "grant_type_unknown"
    SCOPE_NOT_GRANTABLE = "scope_not_grantable"
    TARGET_MISSING = "target_missing"
    TARGET_UNKNOWN = "target_unknown"
    TARGET_REPEATED = "target_repeated"
    TARGET_NOT_ALLOWED = "target_not_allowed"
    INTENT_MISSING = "intent_missing"
    INTENT_MALFORMED = "intent_malformed"
    INTENT_OUTSIDE_TASK = "intent_outside_task"
    TASK_EXHAUSTED = "task_exhausted"
    LOCATION_MISMATCH = "location_mismatch"
    ACTION_NOT_ALLOWED_FOR_AGENT = "action_not_allowed_for_agent"
    POLICY_DENIED = "policy_denied"
    POLICY_ERROR = "policy_error"
    STEP_UP_REQUIRED = "step_up_required"
    CONFIRMATION_REQUIRED = "confirmation_required"
    GRANT_MISSING = "grant_missing"
    GRANT_NEEDS_REAUTH = "grant_needs_reauth"
    GRANT_REVOKED = "grant_revoked"
    AUTHORIZATION_PENDING = "authorization_pending"
    POLLED_TOO_FAST = "polled_too_fast"
    DEFERRAL_EXPIRED = "deferral_expired"
    CONFIRMATION_REFUSED = "confirmation_refused"
    ASSERTION_INVALID = "assertion_invalid"
    DEFERRAL_CODE_INVALID = "deferral_code_invalid"
    DPOP_PROOF_INVALID = "dpop_proof_invalid"
    DPOP_NONCE_REQUIRED = "dpop_nonce_required"
    UNSUPPORTED_TOKEN_TYPE = "unsupported_token_type"
    CSRF_INVALID = "csrf_invalid"
    STATE_INVALID = "state_invalid"
    STATE_OVER = "state_over"
    STATE_USED = "state_used"
    ISSUER_MISMATCH = "issuer_mismatch"
    LOGIN_FAILED = "login_failed"
    LOGIN_CANCELLED = "login_cancelled"
    CONSENT_REFUSED = "consent_refused"
    AUTHORIZATION_FAILED = "authorization_failed"
    CLIENT_MISCONFIGURED = "client_misconfigured"
    NO_AUTHORIZATION_CODE_GRANT = "no_authorization_code_grant"
    CALL_TOKEN_INVALID = "call_token_invalid"
    TOOL_UNKNOWN = "tool_unknown"
    CALL_NOT_CONFIGURED = "call_not_configured"
    CALL_ALREADY_ATTEMPTED = "call_already_attempted"
    CALL_ID_REUSED = "call_id_reused"
    CALL_OUTCOME_UNKNOWN = "call_outcome_unknown"
    OUTCOME_ALREADY_REPORTED = "outcome_already_reported"
    POLICY_VERSION_SKEW = "policy_version_skew"
    PLATFORM_ASKS_USER = "platform_asks_user"
    TOOL_DEFINITION_CHANGED = "tool_definition_changed"
    RESPONSE_TOO_LARGE = "response_too_large"
    RESPONSE_TYPE_NOT_ALLOWED = "response_type_not_allowed"
    REDIRECT_REFUSED = "redirect_refused"
    SECRET_ECHOED = "secret_echoed"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    IDP_UNAVAILABLE = "idp_unavailable"
    POLICY_UNAVAILABLE = "policy_unavailable"
    INTERNAL_ERROR = "internal_error"


@immutable
class Remedy:
    """What the caller can do about a refusal. Only the members that apply are set; all are safe to show."""

    retry_after_s: int | None = None
    interaction_uri: str | None = None
    acr_values: str | None = None
    max_age_s: int | None = None
    deferral_code: str | None = None
    interval_s: int | None = None
    expires_in_s: int | None = None
    dpop_nonce: str | None = None
    member: str | None = None  # the parameter or JSON member at fault: a name, never its value


NO_REMEDY = Remedy()


@immutable
class Claimed:
    """Who a refused credential says that it is of. Nobody checked it; only the audit shows it, marked as unverified."""

    client_id: str | None = None
    issuer: str | None = None


class BrokerError(Exception):
    """A refusal. `reason` is for programs, `detail` a fixed sentence for people: neither ever quotes input or secrets.

    `why` (a fixed phrase) and `claimed` are for the audit alone: the caller's answer is the same whatever they say.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        remedy: Remedy = NO_REMEDY,
        why: str | None = None,
        claimed: Claimed | None = None,
    ) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail
        self.remedy = remedy
        self.why = why
        self.claimed = claimed


def missing_parameter(name: str) -> BrokerError:
    return BrokerError(Reason.PARAMETER_MISSING, f"The parameter {name} is missing.", remedy=Remedy(member=name))


def invalid_parameter(name: str, detail: str = "") -> BrokerError:
    """The refusal of one request parameter, named."""
    return BrokerError(
        Reason.PARAMETER_INVALID, detail or f"The parameter {name} is not valid.", remedy=Remedy(member=name)
    )

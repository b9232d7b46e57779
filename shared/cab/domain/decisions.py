"""Decisions are values with their reasons, never bare booleans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from cab.domain.errors import Reason
from cab.values import immutable


@immutable
class Permit:
    rules: tuple[str, ...] = ()


@immutable
class Deny:
    reason: Reason
    rules: tuple[str, ...] = ()


@immutable
class Confirm:
    """The user must agree first. `prompts` are the sentences of the policies that ask.

    `acr_values`: login levels separated by spaces, one of which the user must have where they agree, too.
    """

    prompts: tuple[str, ...]
    rules: tuple[str, ...] = ()
    acr_values: str | None = None


@immutable
class StepUp:
    """The login is too old or too weak for this intent (RFC 9470)."""

    rules: tuple[str, ...] = ()
    max_age_s: int | None = None
    acr_values: str | None = None


Decision = Permit | Deny | Confirm | StepUp


def differ(one: Decision, other: Decision) -> bool:
    """Whether two sets of rules end a request differently: by kind and reason, whatever rules did it."""
    return type(one) is not type(other) or (
        isinstance(one, Deny) and isinstance(other, Deny) and one.reason is not other.reason
    )


@immutable
class Check:
    """One step of the path of a decision, as `cab explain` prints it."""

    name: str
    passed: bool
    detail: str


DecidedBy = Literal[
    "request", "credential", "task", "allow_list", "policy", "user", "limit", "grant", "outage", "platform", "bug"
]
"""What came to a decision, in one word: the question that an analyst asks first of every row."""

BY_REASON: Final[Mapping[Reason, DecidedBy]] = {
    **dict.fromkeys(
        (
            Reason.INTENT_OUTSIDE_TASK,
            Reason.TASK_EXHAUSTED,
        ),
        "task",
    ),
    **dict.fromkeys(
        (
            Reason.ACTION_NOT_ALLOWED_FOR_AGENT,
            Reason.GRANT_TYPE_NOT_ALLOWED,
            Reason.SCOPE_NOT_GRANTABLE,
            Reason.TARGET_NOT_ALLOWED,
        ),
        "allow_list",
    ),
    **dict.fromkeys(
        (Reason.POLICY_DENIED, Reason.POLICY_ERROR, Reason.STEP_UP_REQUIRED, Reason.CONFIRMATION_REQUIRED), "policy"
    ),
    **dict.fromkeys(
        (
            Reason.CONFIRMATION_REFUSED,
            Reason.LOGIN_CANCELLED,
            Reason.CONSENT_REFUSED,
            Reason.AUTHORIZATION_PENDING,
            Reason.DEFERRAL_EXPIRED,
        ),
        "user",
    ),
    **dict.fromkeys((Reason.RATE_LIMITED, Reason.POLLED_TOO_FAST), "limit"),
    **dict.fromkeys((Reason.GRANT_MISSING, Reason.GRANT_NEEDS_REAUTH, Reason.GRANT_REVOKED), "grant"),
    **dict.fromkeys(
        (
            Reason.SUBJECT_TOKEN_INVALID,
            Reason.SUBJECT_TOKEN_EXPIRED,
            Reason.ACTOR_TOKEN_INVALID,
            Reason.ACTOR_MISMATCH,
            Reason.MAY_ACT_VIOLATED,
            Reason.CLIENT_AUTHENTICATION_FAILED,
            Reason.CLIENT_ASSERTION_REPLAYED,
            Reason.ASSERTION_INVALID,
            Reason.DEFERRAL_CODE_INVALID,
            Reason.DPOP_PROOF_INVALID,
            Reason.DPOP_NONCE_REQUIRED,
            Reason.CSRF_INVALID,
            Reason.STATE_INVALID,
            Reason.STATE_OVER,
            Reason.STATE_USED,
            Reason.ISSUER_MISMATCH,
            Reason.LOGIN_FAILED,
        ),
        "credential",
    ),
    **dict.fromkeys(
        (
            Reason.AUDIT_UNAVAILABLE,
            Reason.STORE_UNAVAILABLE,
            Reason.PROVIDER_UNAVAILABLE,
            Reason.IDP_UNAVAILABLE,
            Reason.POLICY_UNAVAILABLE,
            Reason.AUTHORIZATION_FAILED,
            Reason.CLIENT_MISCONFIGURED,
        ),
        "outage",
    ),
    Reason.CALL_TOKEN_INVALID: "credential",
    **dict.fromkeys(
        (Reason.CALL_OUTCOME_UNKNOWN, Reason.POLICY_VERSION_SKEW, Reason.TOOL_DEFINITION_CHANGED), "outage"
    ),
    **dict.fromkeys(
        (
            Reason.RESPONSE_TOO_LARGE,
            Reason.RESPONSE_TYPE_NOT_ALLOWED,
            Reason.REDIRECT_REFUSED,
            Reason.SECRET_ECHOED,
            Reason.PLATFORM_ASKS_USER,
        ),
        "platform",
    ),
    Reason.INTERNAL_ERROR: "bug",
}
"""Every other reason is a `request` that could not be read, or asked for what there is not."""


def decided_by(
    reason: Reason | None, *, decision: Literal["permit", "deny", "confirm"] | None, confirmed: bool
) -> DecidedBy | None:
    """A refusal's reason decides; what was permitted was so by the user who was asked, or else by policy. None: no decision."""
    if reason is not None:
        return BY_REASON.get(reason, "request")
    if decision is None:
        return None
    return "user" if confirmed else "policy"

"""What the `error` of an authorization answer means (RFC 6749 section 4.1.2.1, OpenID Connect Core section 3.1.2.6), as providers send it.

The code is in an address that anybody can write: it chooses words for a person, and nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class AuthorizationFailure(StrEnum):
    CANCELLED = "cancelled"  # by the person, or by rules that do not let them: the codes do not tell these apart
    OUR_FAULT = "our fault"  # what we asked for, or are registered for: no user can fix it
    BUSY = "busy"
    OTHER = "other"


_MEANINGS: Final = {
    AuthorizationFailure.CANCELLED: frozenset(
        {
            "access_denied",
            "authorization_declined",
            "user_cancelled_authorize",
            "user_cancelled_login",
            "user_denied",
        }
    ),
    AuthorizationFailure.OUR_FAULT: frozenset(
        {
            "application_suspended",
            "bad_redirect_uri",
            "invalid_authorization_details",
            "invalid_client",
            "invalid_client_id",
            "invalid_redirect_uri",
            "invalid_request",
            "invalid_request_object",
            "invalid_request_uri",
            "invalid_resource",
            "invalid_scope",
            "invalid_target",
            "oauth_app_access_denied",
            "oauth_app_blocked",
            "redirect_uri_mismatch",
            "request_not_supported",
            "request_uri_not_supported",
            "unauthorized_client",
            "unsupported_response_mode",
            "unsupported_response_type",
        }
    ),
    AuthorizationFailure.BUSY: frozenset({"server_error", "temporarily_unavailable"}),
}
_BY_CODE: Final = {code: meaning for meaning, codes in _MEANINGS.items() for code in codes}


def meaning_of(error: str) -> AuthorizationFailure:
    return _BY_CODE.get(error.lower(), AuthorizationFailure.OTHER)


def named(error: str) -> str:
    """The code for a record, where it is one that is known here: text of strangers does not get in by it."""
    return error.lower() if error.lower() in _BY_CODE else "an unknown error"

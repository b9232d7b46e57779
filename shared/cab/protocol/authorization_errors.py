"""What the `error` of an authorization answer means (RFC 6749 section 4.1.2.1, OpenID Connect Core section 3.1.2.6), as providers send it.

The code is in an address that anybody can write: it chooses words for a person, and nothing else.
"""

from __future__ import annotations

import re
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
            "unauthorized",  # Auth0, where a rule of the organisation said no
            "user_cancelled_authorize",
            "user_cancelled_login",
            "user_denied",
        }
    ),
    AuthorizationFailure.OUR_FAULT: frozenset(
        {
            "admin_policy_enforced",  # Google: an administrator has to let the application in
            "org_internal",  # Google: it is for another organisation's people only
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
# Words of codes that nobody here knows. Ours before busy before theirs: `client_access_denied` is about us.
_BY_WORDS: Final = (
    (
        AuthorizationFailure.OUR_FAULT,
        re.compile(r"client|redirect|scope|response_(?:type|mode)|(?<![a-z])app(?![a-z])|application|tenant"),
    ),
    (
        AuthorizationFailure.BUSY,
        re.compile(r"unavailable|rate_limit|too_many|throttl|timeout|timed_out|internal_(?:error|failure)|slow_down"),
    ),
    (
        AuthorizationFailure.CANCELLED,
        re.compile(r"cancel|den(?:y|ied)|declin|reject|abort|not_(?:allowed|authori[sz]ed)"),
    ),
)
_BY_CODE: Final = {code: meaning for meaning, codes in _MEANINGS.items() for code in codes}


def meaning_of(error: str) -> AuthorizationFailure:
    code = error.lower()
    if code in _BY_CODE:
        return _BY_CODE[code]
    return next((meaning for meaning, words in _BY_WORDS if words.search(code)), AuthorizationFailure.OTHER)


def named(error: str) -> str:
    """The code for a record, where it is one that is known here: text of strangers does not get in by it."""
    return error.lower() if error.lower() in _BY_CODE else "an unknown error"

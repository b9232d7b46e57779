"""What a refusal says to a person: a title, one or two sentences, and where to go on. Never an error's text."""

from __future__ import annotations

from typing import Final

from cab.domain.errors import BrokerError, Reason

_BROKEN: Final = (
    "Something went wrong on our side",
    "Nothing was changed. Please try again; if it happens again, tell your support the reference below.",
)
_BUSY: Final = (
    "This does not work at the moment",
    "A system we need does not answer. Please try again in a minute.",
)
_CHANGED: Final = (
    "A part of it is repeated or cannot be read; it may have been changed or cut off on its way. Nothing was done. Follow the "
    "link again from where you got it, or start from your own page."
)
_SENTENCES: Final[dict[Reason, tuple[str, str]]] = {
    Reason.NOT_FOUND: (
        "There is nothing here for you",
        "The address is wrong, it is over, or it belongs to somebody else. If you followed a link, log in as the person it was meant for.",
    ),
    Reason.METHOD_NOT_ALLOWED: ("This does not work this way", "Please start from your own page."),
    Reason.BODY_TOO_LARGE: ("That was too much", "More was sent than this page can take."),
    Reason.UNSUPPORTED_MEDIA_TYPE: ("This does not work this way", "Please use the buttons of the page."),
    Reason.PARAMETER_MISSING: (
        "Something is missing",
        "The address or the form is not complete, so nothing was done. Follow the link again from where you got it, or start "
        "from your own page.",
    ),
    Reason.PARAMETER_REPEATED: ("This address is not valid", _CHANGED),
    Reason.PARAMETER_INVALID: ("This address is not valid", _CHANGED),
    Reason.NO_AUTHORIZATION_CODE_GRANT: (
        "Programs cannot be given access this way",
        "The program that sent you here asked for an authorization code, and there is no such grant here. Nothing was done. "
        "Tell whoever runs it: it has to exchange an assertion at the token endpoint (OAuth 2.0 token exchange, RFC 8693). "
        "If you meant to connect an account, start from your own page.",
    ),
    Reason.CSRF_INVALID: (
        "Please try again",
        "This came from a page that is not ours, or from before you logged in anew, so nothing was done. Open the page again and "
        "repeat it.",
    ),
    Reason.STATE_INVALID: (
        "Please start again",
        "This was begun in another browser, by another person or before you logged out, or it is long over. Nothing was changed.",
    ),
    Reason.STATE_OVER: (
        "That took too long",
        "You have ten minutes from start to end. Nothing was changed; you can begin again.",
    ),
    Reason.STATE_USED: (
        "This was received before",
        "The same answer came a second time and changed nothing. What came of the first is on your own page; it can take some "
        "seconds. If nothing came of it, begin again.",
    ),
    Reason.ISSUER_MISMATCH: (
        "This answer came from the wrong place",
        "Another system than the one you were sent to has answered, so it was thrown away. Nothing was changed.",
    ),
    Reason.LOGIN_FAILED: (
        "You are not logged in",
        "Your login page answered in a way that could not be verified. Nothing was changed; you can try again. If it happens "
        "again, tell your support the reference below.",
    ),
    Reason.LOGIN_CANCELLED: (
        "The login was cancelled",
        "You, or the rules of your organisation, ended it at the login page. Nothing was changed; you can try again. If you did "
        "not cancel it, tell your support the reference below.",
    ),
    Reason.CLIENT_MISCONFIGURED: (
        "Your organisation's settings are wrong",
        "The other side does not accept how we are registered there. You did nothing wrong, nothing was changed, and trying again "
        "will not help: tell your support the reference below.",
    ),
    Reason.STEP_UP_REQUIRED: (
        "Please log in again",
        "This needs a login that is fresh and strong enough, made just now by you. Nothing was decided.",
    ),
    Reason.CONSENT_REFUSED: (
        "Connecting was cancelled",
        "You did not agree at the other system, or it does not let you, so nothing was connected. If you did not cancel it, ask "
        "whoever runs that system.",
    ),
    Reason.AUTHORIZATION_FAILED: (
        "The connection did not work",
        "The other system did not give access. Nothing was connected; you can try again. If it happens again, tell your support the "
        "reference below.",
    ),
    Reason.TARGET_NOT_ALLOWED: (
        "There is nothing to connect",
        "Your organisation approved this system for its people. Your own page says whether agents can use it as you.",
    ),
    Reason.GRANT_MISSING: ("There is nothing to disconnect", "This account is not connected."),
    Reason.GRANT_REVOKED: ("One moment", "This account is still being disconnected. Please try again in a minute."),
    Reason.RATE_LIMITED: ("That was a bit fast", "Please wait a moment and try again."),
    Reason.OVERLOADED: (
        "Too many people at once",
        "Nothing was done. Please try again in a few seconds.",
    ),
    Reason.IDP_UNAVAILABLE: (
        "Your login page does not answer",
        "The identity provider of your organisation cannot be reached. Please try again in a minute.",
    ),
    Reason.PROVIDER_UNAVAILABLE: (
        "The other system does not answer",
        "Nothing was changed. Please try again in a minute.",
    ),
    Reason.AUDIT_UNAVAILABLE: (
        "Nothing was done",
        "Your answer could not be recorded, and without a record nothing happens here. Please try again in a minute.",
    ),
    Reason.STORE_UNAVAILABLE: _BUSY,
    Reason.POLICY_UNAVAILABLE: _BUSY,
}


# What the same person can repeat as often as they like: no button invites to it.
NOT_TO_BE_REPEATED: Final = frozenset({Reason.CLIENT_MISCONFIGURED, Reason.NO_AUTHORIZATION_CODE_GRANT})


def words_for(refusal: BrokerError) -> tuple[str, str]:
    """Title and sentence."""
    return _SENTENCES.get(refusal.reason, _BROKEN)

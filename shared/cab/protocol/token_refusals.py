"""What it means when a token endpoint says no (RFC 6749 section 5.2), as providers really say it.

Four things must be distinguished: the token is dead and the user must be asked; our own registration is refused and only the operator
can help; the provider is busy and will be asked again; and a no in words that nobody here knows, which is believed when it lasts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final

from cab.protocol.token_responses import TokenError
from cab.values import immutable


class RefusalMeaning(StrEnum):
    DEAD = "dead"  # the refresh token, or the user's session behind it, is needed anew
    SCOPE = "scope"  # not these scopes; others may be granted
    OUR_FAULT = "our fault"  # our client, its secret, our request or the address: no user can fix it
    BUSY = "busy"  # an outage, or too many requests
    NO = "no"  # definite, in unknown words
    UNCLEAR = "unclear"


@immutable
class Refusal:
    """`said` reads the same each time that the provider says the same: the status and its codes, no free text, no identifiers."""

    meaning: RefusalMeaning
    said: str


INVALID_SCOPE: Final = "invalid_scope"
# Codes that nobody uses for anything but a refresh token, or a user, that is needed anew. A preset may add its own.
DEAD_EVERYWHERE: Final = frozenset(
    {
        "invalid_grant",
        "bad_refresh_token",
        "invalid_refresh_token",
        "expired_refresh_token",
        "refresh_token_expired",
        "refresh_token_invalid",
        "refresh_token_revoked",
        "token_revoked",
        "token_inactive",
        "interaction_required",
        "login_required",
        "consent_required",
        "account_selection_required",
        "invalid_rapt",
    }
)
_OUR_FAULT: Final = frozenset(
    {
        *("invalid_client", "unsupported_grant_type", "redirect_uri_mismatch", "invalid_redirect_uri"),
        *("invalid_target", "invalid_resource"),
    }
)
# "unauthorized_client" blames the client by its name, and many providers say it of a dead token: its words decide, or time.
_SAID_OF_BOTH: Final = "unauthorized_client"
_OF_CLIENTS: Final = re.compile(
    r"client|application(?![a-z])|(?<![a-z])app(?![a-z])|redirect|(?:api|consumer|subscription)[ _-]?key"
)
# Where our requests come from, which no user can change: said of every token alike, sometimes as `invalid_grant`.
_OF_PLACES: Final = re.compile(r"\bip\b|allow[ _-]?list|white[ _-]?list|network[ _-]polic|firewall")
_OF_REQUESTS: Final = re.compile(r"grant[ _-]?type")
_OF_TOKENS: Final = re.compile(
    r"token|session|expired|revoked|(?:un|not[ _-]?)install|deauthori[sz]|consent|(?:log|sign)[ _-]?in(?!g)"
)
_BUSY: Final = re.compile(
    r"temporar|unavailable|busy|rate[ _-]?limit|too[ _-]?many|throttl|slow[ _-]?down|server[ _-]?error"
    r"|\binternal(?:[ _-]?(?:error|failure|fault|exception)|$)|fatal[ _-]?error|maintenance|overload|quota"
)
# Said of servers in trouble, and of a session or token that has ended: "Session timed out", "The token has expired. Try again".
_BUSY_OR_OVER: Final = re.compile(r"time[d ]?[ _-]?out|try[ _-]?again")
_BUSY_WORDS: Final = re.compile(
    r"too many requests|rate limit|throttl|retry (?:your|the|this) request|(?:try|retry)(?: again)? later"
)
# Another request of ours is on its way, or many were: nothing is said of the token, even with `invalid_grant`.
_ONE_TOO_MANY: Final = re.compile(
    r"already being processed|request loop|concurrent request|refresh is (?:already )?in progress"
)
# What says no more than its status does. Auth0 and Atlassian answer so to a wrong client secret, Cloudflare and Envoy to an address.
_OF_THE_STATUS: Final = re.compile(r"(?:unauthori[sz]ed|forbidden|access[ _]denied|rbac|error code|[\W\d])*")
_FIRST_REFUSAL: Final = 400
_REFUSED: Final = 401
_FORBIDDEN: Final = 403
_BUSY_STATUSES: Final = frozenset({408, 425, 429})
_WRONG_REQUEST: Final = frozenset({404, 405, 406, 407, 410, 411, 413, 414, 415, 421, 431})
_IP_OR_TOKEN: Final = re.compile(r"\bip/token\b")  # Snowflake, of a network policy
_ADDRESS: Final = re.compile(r"https?://\S+")
_CODE: Final = re.compile(r"[a-z][a-z_.-]*")  # without digits: these number requests, too
_LONGEST_SAID: Final = 200


def is_busy(status: int) -> bool:
    """Whether this status alone says that the server could not or would not look at the request now."""
    return status >= 500 or status in _BUSY_STATUSES


def judge(
    error: TokenError,
    *,
    status: int,
    headers: Mapping[str, str],
    dead_codes: Collection[str] = (),
    dead_statuses: Collection[int] = (),
) -> Refusal:
    """`dead_codes` and `dead_statuses`: how this provider says that a refresh token is dead, beside what all mean by it.

    `headers` with names in lower case.
    """
    codes = error.codes
    known = sorted(code for code in codes if _CODE.fullmatch(code))
    said = f"http {status} {' '.join(known)}".strip()[:_LONGEST_SAID]
    return Refusal(_meaning(error, status, headers, {code.lower() for code in dead_codes}, dead_statuses), said)


def _meaning(
    error: TokenError, status: int, headers: Mapping[str, str], dead_codes: set[str], dead_statuses: Collection[int]
) -> RefusalMeaning:
    codes, in_success = error.codes, 200 <= status < 300
    if is_busy(status):
        return RefusalMeaning.BUSY
    if not in_success and status < 400:
        return RefusalMeaning.OUR_FAULT if status >= 300 else RefusalMeaning.UNCLEAR  # the endpoint is elsewhere
    if _ONE_TOO_MANY.search(error.words):
        return RefusalMeaning.BUSY
    if not in_success and INVALID_SCOPE not in codes and _is_about_where_we_are(error):
        return RefusalMeaning.OUR_FAULT
    if codes & DEAD_EVERYWHERE or (codes & dead_codes and (in_success or status in dead_statuses)):
        return RefusalMeaning.DEAD
    if INVALID_SCOPE in codes:
        return RefusalMeaning.SCOPE
    if _is_our_fault(error, status, headers):
        return RefusalMeaning.OUR_FAULT
    # Who answers 401 has looked and refused: ServiceNow says `server_error` there of a refresh token that is dead.
    if status != _REFUSED and _is_busy_by_its_words(error):
        return RefusalMeaning.BUSY
    if in_success and not error.says_no:
        return RefusalMeaning.UNCLEAR
    return RefusalMeaning.NO


def _is_about_where_we_are(error: TokenError) -> bool:
    """Whether an address of ours is refused, and no token."""
    return _OF_PLACES.search(error.words) is not None and not _OF_TOKENS.search(_IP_OR_TOKEN.sub("ip", error.words))


def _is_busy_by_its_words(error: TokenError) -> bool:
    if any(map(_BUSY.search, error.codes)) or _BUSY_WORDS.search(error.words):
        return True
    return any(map(_BUSY_OR_OVER.search, error.codes)) and not _OF_TOKENS.search(error.words)


def _is_our_fault(error: TokenError, status: int, headers: Mapping[str, str]) -> bool:
    """Whether the provider refuses us, or our request, and not the token. In doubt a user must not pay for it, nor wait for ever:
    what speaks of a token is about the token, what speaks of clients only is about us."""
    if any(
        code in _OUR_FAULT or ("client" in code and code != _SAID_OF_BOTH) for code in error.codes if " " not in code
    ):
        return True
    if error.is_page and status >= _FIRST_REFUSAL:  # a firewall, a proxy, a portal: it has not seen the token
        return True
    says_nothing = _OF_THE_STATUS.fullmatch(error.words) is not None
    # RFC 6749 section 5.2 wants 401 and the scheme where the client is refused. Without a word of its own nobody can tell.
    if status == _REFUSED and (says_nothing or "basic" in headers.get("www-authenticate", "").lower()):
        return True
    if status == _FORBIDDEN and says_nothing and error.words and not error.codes:  # as a page, but in plain text
        return True
    words = _ADDRESS.sub("", error.words.replace(_SAID_OF_BOTH, ""))
    if _OF_REQUESTS.search(words):
        return True
    if _OF_TOKENS.search(words):
        return False
    return status in _WRONG_REQUEST or _OF_CLIENTS.search(words) is not None

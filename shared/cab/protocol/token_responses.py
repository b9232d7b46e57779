"""Answers of downstream token endpoints (RFC 6749 sections 5.1 and 5.2), as providers really send them.

Parsed only after the bytes are durably stored. Lenient in form (JSON or form-encoded, numbers as text), strict in use: what
does not clearly hold a token is no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeGuard
from urllib.parse import parse_qsl

from cab.protocol import strict_json

# In base64, beside a carried refresh token of the greatest length, this still fits into the 64 KiB of a payload.
MAX_RESPONSE_BYTES: Final = 32 * 1024
MAX_LIFETIME: Final = timedelta(days=400)
UNKNOWN_LIFETIME: Final = timedelta(minutes=10)  # when neither the answer nor the provider's profile says


@dataclass(frozen=True, slots=True)
class Tokens:
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    scopes: tuple[str, ...] | None  # None: the answer does not say, so as requested (RFC 6749 section 5.1)
    expires_in: timedelta | None
    members: dict[str, Any] = field(repr=False, default_factory=dict)

    def expires_at(self, received_at: datetime, *, default: timedelta | None) -> datetime | None:
        """When the access token ends. Without any statement, a token that can be refreshed is given a short life."""
        if self.expires_in is not None:
            return received_at + self.expires_in
        if default is not None:
            return received_at + default
        return received_at + UNKNOWN_LIFETIME if self.refresh_token is not None else None


@dataclass(frozen=True, slots=True)
class TokenError:
    """An error answer. `code` is the provider's `error` when it is a plausible code, else "unparsable".

    `is_challenge`: it carries `claims`, by which Microsoft Entra asks for more than the user has shown so far.
    """

    code: str
    is_challenge: bool = False


def parse(body: bytes, *, scope_claim: str = "scope") -> Tokens | TokenError:
    """`scope_claim` is where the provider lists the granted scopes when `scope` says nothing, see `member_at`."""
    members = _members(body)
    if members is None:
        return TokenError("unparsable")
    error = members.get("error")
    if error is not None or members.get("ok") is False:
        code = error if isinstance(error, str) and error.isascii() and len(error) <= 64 else "unparsable"
        return TokenError(code, is_challenge="claims" in members)
    access_token = members.get("access_token")
    if not _is_token(access_token):
        return TokenError("unparsable")
    refresh_token = members.get("refresh_token")
    return Tokens(
        access_token=access_token,
        refresh_token=refresh_token if _is_token(refresh_token) else None,
        scopes=_scopes(members.get("scope")) or _scopes(member_at(members, scope_claim)),
        expires_in=_lifetime(members.get("expires_in")),
        members=members,
    )


def member_at(members: Mapping[str, Any], path: str) -> Any:
    """The member under a name such as `sub`, or inside objects under one such as `owner.user.id`; of a list of objects, all of
    them. None when it is not there.
    """
    found: Any = members
    for name in path.split("."):
        if isinstance(found, list):
            found = [item.get(name) if isinstance(item, dict) else None for item in found]
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found


def _members(body: bytes) -> dict[str, Any] | None:
    try:
        return strict_json.load_object(body)
    except strict_json.InvalidJson:
        pass
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, strict_parsing=True, max_num_fields=50)
    except ValueError:
        return None
    return dict(pairs) if len({name for name, _ in pairs}) == len(pairs) else None


def _is_token(value: object) -> TypeGuard[str]:
    """Visible ASCII only (RFC 6750 section 2.1 is narrower, real providers are not)."""
    return isinstance(value, str) and 0 < len(value) <= 16_384 and all("!" <= char <= "~" for char in value)


def _scopes(value: object) -> tuple[str, ...] | None:
    """Text with spaces or commas between, or a list of texts; None for anything that names no scope."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    if not isinstance(value, str) or not value.strip():
        return None
    return tuple(dict.fromkeys(value.replace(",", " ").split()))


def _lifetime(value: object) -> timedelta | None:
    """Seconds as a number or as text; anything absurd counts as not said."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    seconds = int(value)
    return timedelta(seconds=seconds) if 0 < seconds <= MAX_LIFETIME.total_seconds() else None

"""Answers of downstream token endpoints (RFC 6749 sections 5.1 and 5.2), as providers really send them.

Parsed only after the bytes are durably stored. Lenient in form (JSON or form-encoded, any Unicode encoding, compressed though
nobody asked, repeated members, numbers as text), strict in use: what does not clearly hold a token is no token. Answers are
written by others, and a rotated token that cannot be read is a lost grant.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeGuard
from urllib.parse import parse_qsl

# An access and a refresh token of the greatest length and what stands around them. Beside a carried refresh token it still fits
# into the 64 KiB of a payload, see `grant_payloads.new_token_set`.
MAX_RESPONSE_BYTES: Final = 40 * 1024
_MAX_UNPACKED_BYTES: Final = 256 * 1024
_MAX_DEPTH: Final = 20
_ENCODINGS: Final = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1")
# Members that must not be guessed at when they are repeated with different values.
_DECISIVE: Final = frozenset({"access_token", "refresh_token", "error"})
# Where providers put their error codes, beside or instead of `error` (RFC 6749 section 5.2).
_CODE_MEMBERS: Final = ("error", "error_code", "errorCode", "code", "status", "type", "message")
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

    `codes` are all plausible codes in the answer, in lower case, wherever the provider puts them.
    `is_challenge`: it carries `claims`, by which Microsoft Entra asks for more than the user has shown so far.
    `may_hold_tokens`: nobody here can read it, and it is not known to hold no tokens: a later release may read it.
    """

    code: str
    is_challenge: bool = False
    codes: frozenset[str] = frozenset()
    may_hold_tokens: bool = False


UNPARSABLE: Final = "unparsable"


def parse(body: bytes, *, scope_claim: str = "scope") -> Tokens | TokenError:
    """`scope_claim` is where the provider lists the granted scopes when `scope` says nothing, see `member_at`."""
    members = _members(body)
    if members is None:
        return TokenError(UNPARSABLE, may_hold_tokens=_may_hold_tokens(body))
    error = members.get("error")
    access_token = members.get("access_token")
    if error or members.get("ok") is False or not _is_token(access_token):
        code = error if isinstance(error, str) and _is_code(error) else UNPARSABLE
        return TokenError(
            code,
            is_challenge="claims" in members,
            codes=frozenset(_codes(members)),
            # Too long, of another type or in another place: a token is there that this release does not know how to take.
            may_hold_tokens=not error and bool(access_token) and isinstance(access_token, str | dict | list),
        )
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
    """The members of a JSON object or of a form, in whatever encoding. None for anything else."""
    for text in _texts(body):
        members = _json_members(text)
        if members is None:
            members = _form_members(text)
        if members is not None:
            return members
    return None


def _texts(body: bytes) -> Iterator[str]:
    """The body as text, by each encoding that it could be in. Only what then reads as members counts."""
    data = _unpacked(body)
    if data is None:
        return
    for encoding in _ENCODINGS:
        try:
            yield data.decode(encoding).lstrip("\ufeff")
        except UnicodeDecodeError:
            continue


def _unpacked(body: bytes) -> bytes | None:
    """Without the compression that some servers apply although they were asked not to. None: not to be unpacked, or too large."""
    if body[:2] == b"\x1f\x8b":
        kinds = (zlib.MAX_WBITS | 16,)
    elif body[:1] == b"\x78" and body[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
        kinds = (zlib.MAX_WBITS,)
    else:
        return body
    for kind in kinds:
        unpacker = zlib.decompressobj(kind)
        try:
            data = unpacker.decompress(body, _MAX_UNPACKED_BYTES)
        except zlib.error:
            continue
        return data if unpacker.eof else None
    return None


def _json_members(text: str) -> dict[str, Any] | None:
    if text.count("[") + text.count("{") > 1000:
        return None
    try:
        members = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) and not _too_deep(members) else None


def _last_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As most readers take a repeated member; where it decides about tokens, only if it says the same each time."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in _DECISIVE and name in members and members[name] != value:
            raise ValueError("a decisive member is repeated")
        members[name] = value
    return members


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_last_of_each)


def _too_deep(value: Any, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_too_deep(item, depth + 1) for item in inner)


def _form_members(text: str) -> dict[str, Any] | None:
    if not text.isascii():
        return None
    try:
        return _last_of_each(parse_qsl(text.strip(), strict_parsing=True, max_num_fields=50))
    except ValueError:
        return None


def _may_hold_tokens(body: bytes) -> bool:
    """Whether somebody who knows the form of this answer might find tokens in it. A page of HTML or an empty body holds none."""
    if b"access_token" in body.replace(b"\x00", b""):
        return True
    data = body.strip()
    return bool(data) and any(byte < 9 or 14 <= byte < 32 for byte in data)  # packed or encrypted: no text at all


def _is_code(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and text.isprintable()


def _codes(members: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    for name in _CODE_MEMBERS:
        value = members.get(name)
        if isinstance(value, str) and _is_code(value):
            yield value.lower()
        elif isinstance(value, Mapping) and depth < 2:
            yield from _codes(value, depth + 1)


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

"""Answers of downstream token endpoints (RFC 6749 sections 5.1 and 5.2), as providers really send them.

Parsed only after the bytes are durably stored. Lenient in form (JSON or form-encoded, any Unicode encoding, compressed though
nobody asked, repeated members, numbers as text), strict in use: what does not clearly hold a token is no token. Answers are
written by others, and a rotated token that cannot be read is a lost grant.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeGuard, TypeVar
from urllib.parse import parse_qsl

from cab.encoding.packing import unpacked
from cab.values import immutable

_Value = TypeVar("_Value")

# Several tokens of the greatest length, and a profile of the user beside them. What is kept of it: `grant_payloads.new_payload`.
MAX_RESPONSE_BYTES: Final = 256 * 1024
_MAX_UNPACKED_BYTES: Final = 256 * 1024
_MAX_DEPTH: Final = 20
_ENCODINGS: Final = (
    "utf-8-sig",
    "utf-32",  # before UTF-16, whose byte order mark its own begins with
    "utf-32-le",
    "utf-32-be",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "latin-1",
)
# Without this rule a JSON document that cannot be read would pass for a form, once a token in it ends with "=".
_FORM_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]-]{0,63}")
_PAGE: Final = re.compile(  # HTML, whatever stands before its first tag
    rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?(?:\s|<\?xml[^>]*>|<!--(?:(?!-->).)*-->)*"
    rb"<(?:!doctype\s+html|html|head|title|meta|link|script|style|body|center|div|h1|p|br)\b",
    re.IGNORECASE | re.DOTALL,
)
_TOKEN_NAME: Final = re.compile(rb"(?:access|refresh)[_-]?token", re.IGNORECASE)
_LONGEST_TOKEN: Final = 16_384
# Members that must not be guessed at when they are repeated with different values.
_DECISIVE: Final = frozenset({"access_token", "refresh_token", "id_token", "error"})
_LONGEST_WORDS: Final = 2000
_DATE_AND_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}[T ]")
# What a page says that is of the token endpoint itself: there are vendors that refuse in HTML or XML.
_OF_REFRESHING: Final = re.compile(r"invalid_grant|refresh[ _-]?token")
_LONE_CODE: Final = re.compile(r'"?([a-z]{1,30}(?:_[a-z]{1,30}){1,5})"?')  # a whole body that is but the code
# What programs write where they have nothing.
_NO_TOKENS: Final = frozenset({"null", "none", "nil", "undefined", "n/a"})
# Where providers put their error codes, beside or instead of `error` (RFC 6749 section 5.2).
_CODE_MEMBERS: Final = ("error", "error_code", "errorCode", "errorType", "code", "status", "type", "message", "errors")
_A_NO: Final = re.compile(
    r"invalid|error|fail|den(?:y|ied)|expired|revoked|bad|unauthori[sz]ed|refused|forbidden|missing|not"
)
# Zoho's `expires_in` may be of milliseconds, with the seconds beside it.
_LIVES: Final = ("expires_in_sec", "expires_in", "expires")
_ENDS: Final = ("expires_at", "expires_on", "expires")  # an instant, of those that say nothing in seconds: Square
_FIRST_INSTANT: Final = 1_000_000_000  # in 2001: a smaller number is a life
_FIRST_MILLISECONDS: Final = 100_000_000_000
MAX_LIFETIME: Final = timedelta(days=400)
UNKNOWN_LIFETIME: Final = timedelta(minutes=10)  # when neither the answer nor the provider's profile says


@immutable
class Tokens:
    """`refresh_is_unread`: the answer brings a refresh token that this release does not know how to take.

    `ends_at`: an instant that the answer names for the access token's end, by the provider's clock.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    scopes: tuple[str, ...] | None  # None: the answer does not say, so as requested (RFC 6749 section 5.1)
    expires_in: timedelta | None
    members: dict[str, Any] = field(repr=False, default_factory=dict)
    refresh_is_unread: bool = False
    ends_at: datetime | None = None

    def expires_at(self, received_at: datetime, *, default: timedelta | None) -> datetime | None:
        """When the access token ends. Without any statement, a token that can be refreshed is given a short life."""
        if self.expires_in is not None:
            return received_at + self.expires_in
        if self.ends_at is not None and received_at < self.ends_at <= received_at + MAX_LIFETIME:
            return self.ends_at
        if default is not None:
            return received_at + default
        return received_at + UNKNOWN_LIFETIME if self.refresh_token is not None else None


@immutable
class TokenError:
    """An error answer. `code` is the provider's `error` when it is a plausible code, else "unparsable".

    `codes` are all plausible codes in the answer, in lower case, wherever the provider puts them.
    `words` is all text in it, in lower case and cut off: to judge by, never to be stored or shown.
    `is_challenge`: it carries `claims`, by which Microsoft Entra asks for more than the user has shown so far.
    `says_no`: it holds a mistake by its own words, and is not merely empty or of another kind.
    `may_hold_tokens`: nobody here can read it, and it is not known to hold no tokens: a later release may read it.
    `is_page`: it is HTML or XML that says nothing of refreshing: whatever stands between may have written it.
    """

    code: str
    is_challenge: bool = False
    codes: frozenset[str] = frozenset()
    words: str = field(repr=False, default="")
    says_no: bool = False
    may_hold_tokens: bool = False
    is_page: bool = False


UNPARSABLE: Final = "unparsable"


def parse(body: bytes, *, scope_claim: str = "scope") -> Tokens | TokenError:
    """`scope_claim` is where the provider lists the granted scopes when `scope` says nothing, see `member_at`."""
    members = members_of(body)
    if members is None:
        words, is_markup = _words_of_text(body)
        lone = None if is_markup else _LONE_CODE.fullmatch(words)
        return TokenError(
            UNPARSABLE,
            codes=frozenset() if lone is None else frozenset({lone[1]}),
            words=words,
            may_hold_tokens=_may_hold_tokens(body),
            is_page=is_markup and not words,
        )
    error = members.get("error")
    access_token = _trimmed(members.get("access_token"))
    if error or members.get("ok") is False or not _is_token(access_token):
        code = error if isinstance(error, str) and _is_code(error) else UNPARSABLE
        codes = frozenset(_codes(members))
        return TokenError(
            code,
            is_challenge="claims" in members,
            codes=codes,
            words=" ".join(_texts_in(members))[:_LONGEST_WORDS].lower(),
            says_no=_says_no(members) or any(map(_A_NO.search, codes)),
            # Too long, of another type or in another place: a token is there that this release does not know how to take.
            may_hold_tokens=_holds_tokens(members),
        )
    refresh_token = _trimmed(members.get("refresh_token"))
    if isinstance(refresh_token, str) and refresh_token.lower() in _NO_TOKENS:
        refresh_token = None
    return Tokens(
        access_token=access_token,
        refresh_token=refresh_token if _is_token(refresh_token) else None,
        scopes=_scopes(members.get("scope")) or _scopes(member_at(members, scope_claim)),
        expires_in=_first(_lifetime(members.get(name)) for name in _LIVES),
        ends_at=_first(_instant(members.get(name)) for name in _ENDS),
        members=members,
        refresh_is_unread=_is_something(refresh_token) and not _is_token(refresh_token),
    )


def without_the_rest(body: bytes, *, scope_claim: str = "scope") -> bytes:
    """The same answer with nothing but what `parse` makes of it. As it is where that cannot read it, or holds no token."""
    tokens = parse(body, scope_claim=scope_claim)
    if not isinstance(tokens, Tokens) or tokens.refresh_is_unread:
        return body
    least = {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "scope": None if tokens.scopes is None else " ".join(tokens.scopes),
        "expires_in": None if tokens.expires_in is None else int(tokens.expires_in.total_seconds()),
        "expires_at": None if tokens.ends_at is None else tokens.ends_at.isoformat(),
    }
    return json.dumps({name: value for name, value in least.items() if value is not None}).encode()


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


def members_of(body: bytes) -> dict[str, Any] | None:
    """The members of a JSON object or of a form, in whatever encoding. None for anything else."""
    for text in _texts(body):
        members = _json_members(text)
        if members is None:
            members = _form_members(text)
        if members is not None:
            return members
    return None


def _texts(body: bytes) -> Iterator[str]:
    """The body as text, by each way of packing and each encoding that it could be in. Only what then reads as members counts."""
    for data in unpacked(body, most=_MAX_UNPACKED_BYTES):
        for encoding in _ENCODINGS:
            try:
                yield data.decode(encoding).lstrip("\ufeff")
            except UnicodeDecodeError:
                continue


def _json_members(text: str) -> dict[str, Any] | None:
    if text.count("[") + text.count("{") > 1000:
        return None
    try:
        members = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) and not _too_deep(members) else None


def _last_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As most readers take a repeated member; where it decides about tokens, only if it says the same each time, or nothing."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in _DECISIVE and members.get(name):
            if value and members[name] != value:
                raise ValueError("a decisive member is repeated")
            continue
        members[name] = value
    return members


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_last_of_each, strict=False)  # line ends inside texts are common


def _too_deep(value: Any, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_too_deep(item, depth + 1) for item in inner)


def _form_members(text: str) -> dict[str, Any] | None:
    if "=" not in text:
        return None
    try:
        pairs = parse_qsl(text.strip(), keep_blank_values=True, max_num_fields=50)
        members = _last_of_each(pairs)
    except ValueError:
        return None
    return members if members and all(map(_FORM_NAME.fullmatch, members)) else None


def _holds_tokens(value: Any) -> bool:
    """Whether a member of this name, at any depth, has something in it."""
    if isinstance(value, list):
        return any(map(_holds_tokens, value))
    return isinstance(value, dict) and any(
        (_TOKEN_NAME.fullmatch(name.encode("utf-8", "replace")) is not None and _is_something(item))
        or _holds_tokens(item)
        for name, item in value.items()
    )


def _is_something(value: object) -> bool:
    return bool(value) and not isinstance(value, bool)


def _may_hold_tokens(body: bytes) -> bool:
    """Whether somebody who knows the form of this answer might find tokens in it. A page of HTML or an empty body holds none."""
    *_, plain = unpacked(body, most=_MAX_UNPACKED_BYTES)
    data = plain.replace(b"\x00", b"").strip()
    if _PAGE.match(data):
        return False
    if _TOKEN_NAME.search(data):
        return True
    return any(byte < 9 or 14 <= byte < 32 for byte in data)  # packed or encrypted: no text at all


def _words_of_text(body: bytes) -> tuple[str, bool]:
    """What a body says that is no members, and whether it is HTML or XML: of that only what it says of refreshing counts."""
    text = body.decode("utf-8", "replace").lstrip("\ufeff").strip().lower()
    if text.startswith("<"):
        return " ".join(dict.fromkeys(_OF_REFRESHING.findall(text))), True
    return text[:_LONGEST_WORDS], False


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value[:_LONGEST_WORDS]
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _is_code(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isascii() and text.isprintable()


def _codes(members: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    for name in _CODE_MEMBERS:
        found = members.get(name)
        for value in found[:10] if isinstance(found, list) else (found,):
            if isinstance(value, str) and _is_code(value):
                yield value.lower()
            elif isinstance(value, Mapping) and depth < 2:
                yield from _codes(value, depth + 1)


def _says_no(members: Mapping[str, Any]) -> bool:
    return any(
        (value is False) if name in ("ok", "success") else bool(value) and "err" in name.lower()
        for name, value in members.items()
    )


def _trimmed(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _is_token(value: object) -> TypeGuard[str]:
    """Visible ASCII only (RFC 6750 section 2.1 is narrower, real providers are not)."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TOKEN and all("!" <= char <= "~" for char in value)


def _scopes(value: object) -> tuple[str, ...] | None:
    """Text with spaces or commas between, or a list of texts; None for anything that names no scope."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    if not isinstance(value, str) or not value.strip():
        return None
    storable = value.encode("utf-8", "replace").decode()  # JSON can name halves of characters, which no store takes
    return tuple(dict.fromkeys(storable.replace(",", " ").split()))


def _lifetime(value: object) -> timedelta | None:
    """Seconds as a number or as text, whole or not; anything absurd counts as not said."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    seconds = int(value)
    return timedelta(seconds=seconds) if 0 < seconds <= MAX_LIFETIME.total_seconds() else None


def _instant(value: object) -> datetime | None:
    """Seconds or milliseconds since 1970, as a number or as text, or a date with a time, in UTC unless it says otherwise."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    try:
        if number >= _FIRST_INSTANT:
            return datetime.fromtimestamp(number / 1000 if number >= _FIRST_MILLISECONDS else number, UTC)
        if isinstance(value, str) and _DATE_AND_TIME.match(value):
            named = datetime.fromisoformat(value)
            return named.replace(tzinfo=UTC) if named.tzinfo is None else named.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _first(found: Iterator[_Value | None]) -> _Value | None:
    return next((value for value in found if value is not None), None)

"""What an agent gets of a platform's answer: declared members only, capped, cleaned, with the user's token nowhere in it.

No header of the platform passes: `Retry-After` becomes a number of the answer, and the platform's name for the request goes to
the audit alone. Everything here is pure. A platform's answer is somebody else's text: it is parsed strictly, reduced to what the catalog
declares, written anew, and never cut in the middle.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson
import rfc8785

from cab.domain.configured.calls import Result
from cab.domain.errors import BrokerError, Reason
from cab.domain.identifiers import base64url
from cab.domain.text.invisible import without_invisible
from cab.encoding import strict_json
from cab.encoding.canonical_json import canonical
from cab.ports import HttpAnswer
from cab.values import immutable

MAX_WIRE_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**53 - 1  # beyond, JSON readers differ: such a number goes on as text
SALT_BYTES: Final = 16
SHORTEST_TOKEN_TAIL: Final = 16  # characters: what is shorter could be in an answer by chance

_MEDIA_TYPE: Final = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
)  # RFC 6838 section 4.2
_ESCAPE: Final = re.compile(r"(?<!\\)\\++(?:u([0-9A-Fa-f]{4})|/)")

# As compared: without punctuation, in lower case.
_CREDENTIALS: Final = frozenset(
    {
        "accesstoken",
        "apikey",
        "apisecret",
        "authorization",
        "authtoken",
        "bearertoken",
        "clientassertion",
        "clientsecret",
        "cookie",
        "idtoken",
        "password",
        "privatekey",
        "proxyauthorization",
        "refreshtoken",
        "secretaccesskey",
        "secretkey",
        "sessiontoken",
        "setcookie",
    }
)


class AnswerRefused(Exception):
    """The answer must not be passed on. `reason` says why; the message is a fixed phrase."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def error(self) -> BrokerError:
        return BrokerError(self.reason, self.detail)


@immutable
class Reduced:
    """What goes on, as JSON in `body`; whoever holds it and the salt can prove what the record's commitment was of."""

    body: bytes
    salt: str
    commitment: str
    content_type: str | None
    items: int | None
    marked_characters: int
    is_blob: bool = False  # neither JSON nor text: `value` has its `content_type` and its `base64`

    @property
    def value(self) -> Any:
        """Made anew each time: as objects a result takes many times its size, and many results may wait for the record."""
        return json.loads(self.body)


def reduce(answer: HttpAnswer, declared: Result, *, salt: str, copies: int = 1) -> Reduced:
    """Reduce an answer that is known not to hold the token. `copies` is how often its text will be in what is sent.

    Raises: AnswerRefused RESPONSE_TYPE_NOT_ALLOWED, RESPONSE_TOO_LARGE.
    """
    content_type = _content_type(answer)
    is_blob = bool(answer.body) and declared.type is not None and content_type == declared.type
    if not answer.body:
        value: Any = None
        items, marked = None, 0
    elif is_blob:
        value = {"content_type": content_type, "base64": base64.b64encode(answer.body).decode()}
        items, marked = None, 0
    elif content_type == "application/json" or (content_type or "").endswith("+json"):
        value, items, marked = _document(answer.body, declared)
    elif content_type == "text/plain":
        value, marked = without_invisible(_text(answer))
        items = None
    else:
        raise AnswerRefused(Reason.RESPONSE_TYPE_NOT_ALLOWED, "The platform answered with another kind of content.")
    body = orjson.dumps(value)
    if len(body) * copies > declared.max_bytes:
        raise too_large(len(body))
    return Reduced(body, salt, commitment(value, salt), content_type, items, marked, is_blob)


def too_large(size: int | None) -> AnswerRefused:
    told = "more than this call may return" if size is None else f"{size} bytes, more than this call may return"
    return AnswerRefused(Reason.RESPONSE_TOO_LARGE, f"The platform's answer has {told}. Ask for less.")


def commitment(value: Any, salt: str) -> str:
    """SHA-256 over the salt's bytes and the result's RFC 8785 form: provable with the salt, not to be guessed without."""
    try:
        written = canonical(value)
    except rfc8785.CanonicalizationError as error:  # unreachable by `reduce`, which lets no such number through
        raise AnswerRefused(Reason.RESPONSE_TYPE_NOT_ALLOWED, "A number is out of range.") from error
    return "sha-256:" + base64url(hashlib.sha256(_unpadded(salt) + written).digest())


# --- the token in the answer ---


def echoes(answer: HttpAnswer, token: str) -> bool:
    """Whether the answer, in its body or headers, holds the token or its latter half: plain, escaped, encoded once, or with
    characters in it that nobody sees."""
    tail = token[-max(SHORTEST_TOKEN_TAIL, len(token) // 2) :]
    wanted = tuple(_forms(tail))
    headers = [value.encode("utf-8", "surrogateescape") for value in answer.headers.values()]
    texts = (answer.body, b"\n".join(headers))
    return any(shape in variant for text in texts for variant in _variants(text) for shape in wanted)


def _forms(tail: str) -> Iterator[bytes]:
    """How the token would look: as it is, in hexadecimal, and in base64 wherever it may begin in there."""
    raw = tail.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for shift in range(3):
        # The characters that hold bits of what comes before and after the token are left out.
        encoded = base64.b64encode(b"\0" * shift + raw)[(0, 2, 3)[shift] : (len(raw) + shift) * 8 // 6]
        yield encoded
        yield encoded.translate(bytes.maketrans(b"+/", b"-_"))


def _variants(text: bytes) -> Iterator[bytes]:
    """The text as it is, as whoever reads it in the end sees it, and that of what is percent-encoded."""
    yield text
    yield _as_seen(text)
    if b"%" in text:
        yield _as_seen(unquote_to_bytes(text))


def _as_seen(text: bytes) -> bytes:
    """Without what the agent's copy will be without: JSON's escapes, also in text of text, and what nobody sees."""
    try:
        shown = text.decode()
    except UnicodeDecodeError:
        shown = text.decode("latin-1")
    if "\\" in shown:
        shown = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "/", shown)
        shown = shown.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # two halves make one character
    return without_invisible(shown)[0].encode()


# --- documents ---


def _document(body: bytes, declared: Result) -> tuple[Any, int | None, int]:
    try:
        found = strict_json.loads(body.removeprefix(b"\xef\xbb\xbf"), max_depth=MAX_DEPTH)
    except strict_json.InvalidJson as error:
        raise AnswerRefused(
            Reason.RESPONSE_TYPE_NOT_ALLOWED, "The platform's answer is not JSON that has one meaning."
        ) from error
    reducing = _Reducing(declared)
    if declared.items is None:
        value = reducing.each(found) if isinstance(found, list) else reducing.one(found)
        return value, len(found) if isinstance(found, list) else None, reducing.marked
    items = at(found, declared.items)
    if not isinstance(items, list):
        raise AnswerRefused(
            Reason.RESPONSE_TYPE_NOT_ALLOWED, "The platform's answer has no list where one is declared."
        )
    if declared.max_items is not None and len(items) > declared.max_items:
        raise AnswerRefused(
            Reason.RESPONSE_TOO_LARGE, f"The platform's answer has {len(items)} items, more than this call may return."
        )
    value = {"items": reducing.each(items)}
    cursor = None if declared.next is None else at(found, declared.next)
    if isinstance(cursor, str | int) and not isinstance(cursor, bool) and cursor != "":
        value["next"] = reducing.clean(cursor)
    return value, len(items), reducing.marked


_Place = tuple["_Place", str] | None  # where a member is: in what, and its name; items of lists are where the list is


class _Reducing:
    """One answer on its way through: members chosen, credentials left out, text cleaned and counted."""

    def __init__(self, declared: Result) -> None:
        self._select = [pointer(path) for path in declared.select]
        self._omit = [pointer(path) for path in declared.omit]
        self._selected = frozenset(self._select)
        self._known: dict[str, tuple[str, int, bool]] = {}
        self.marked = 0

    def each(self, items: list[Any]) -> list[Any]:
        return [self.one(item) for item in items]

    def one(self, found: Any) -> Any:
        """One object of the platform. What is no object has no members to choose."""
        if isinstance(found, dict):
            found = _only(found, self._select) if self._select else found
            for path in self._omit:
                found = _without(found, path)
        return self.clean(found)

    def clean(self, value: Any, place: _Place = None) -> Any:
        if isinstance(value, str):
            value, removed = without_invisible(value)
            self.marked += removed
            return value
        if isinstance(value, list):
            return [self.clean(item, place) for item in value]
        if isinstance(value, dict):
            kept: dict[str, Any] = {}
            for name, item in value.items():
                shown, removed, is_secret = self._name(name)
                if is_secret and _path_of((place, name)) not in self._selected:
                    continue
                if shown in kept:
                    raise AnswerRefused(
                        Reason.RESPONSE_TYPE_NOT_ALLOWED, "The platform's answer has members whose names look the same."
                    )
                self.marked += removed
                kept[shown] = self.clean(item, (place, name))
            return kept
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            return str(value)
        return value

    def _name(self, name: str) -> tuple[str, int, bool]:
        """A member's name as it goes on, how much was removed from it, and whether it is that of a credential. The items of a list
        have the same names."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = (*without_invisible(name), is_credential(name))
        return known


def _path_of(place: _Place) -> tuple[str, ...]:
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(name)
    return tuple(reversed(names))


def is_credential(name: str) -> bool:
    """Whether a member of this name holds what nobody should be shown without asking for it by name."""
    return "".join(filter(str.isalnum, without_invisible(name)[0])).lower() in _CREDENTIALS


def pointer(path: str) -> tuple[str, ...]:
    """The member names of a JSON pointer (RFC 6901), or of a bare member name."""
    if not path.startswith("/"):
        return (path,)
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/"))


def at(document: Any, path: str) -> Any:
    """The value there, None when there is none."""
    for name in pointer(path) if path else ():
        if isinstance(document, list) and name.isascii() and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        elif isinstance(document, dict) and name in document:
            document = document[name]
        else:
            return None
    return document


def _only(document: dict[str, Any], paths: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """The members at these paths, where they are, in the order in which they are declared."""
    kept: dict[str, Any] = {}
    for path in paths:
        _copy(document, path, kept)
    return kept


def _copy(source: dict[str, Any], path: tuple[str, ...], target: dict[str, Any]) -> None:
    name, rest = path[0], path[1:]
    if name not in source:
        return
    found = source[name]
    if not rest:
        target[name] = found
    elif isinstance(found, dict):
        inner = target.setdefault(name, {})
        if isinstance(inner, dict) and inner is not found:
            _copy(found, rest, inner)
    elif isinstance(found, list):
        rows = target.setdefault(name, [{} for _ in found])
        for row, item in zip(rows, found, strict=False):
            if isinstance(item, dict) and isinstance(row, dict) and row is not item:
                _copy(item, rest, row)


def _without(document: Any, path: tuple[str, ...]) -> Any:
    if isinstance(document, list):
        return [_without(item, path) for item in document]
    if not isinstance(document, dict) or path[0] not in document:
        return document
    name, rest = path[0], path[1:]
    if not rest:
        return {known: value for known, value in document.items() if known != name}
    return document | {name: _without(document[name], rest)}


# --- types ---


def _content_type(answer: HttpAnswer) -> str | None:
    """The media type, in lower case. Raises: AnswerRefused for what is encoded: unpacked, it could be of any size."""
    if answer.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise AnswerRefused(Reason.RESPONSE_TYPE_NOT_ALLOWED, "The platform compressed its answer unasked.")
    said = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if said and not _MEDIA_TYPE.fullmatch(said):
        raise AnswerRefused(Reason.RESPONSE_TYPE_NOT_ALLOWED, "The platform's answer says of no known kind of content.")
    return said or None


def _text(answer: HttpAnswer) -> str:
    charset = answer.headers.get("content-type", "").lower().partition("charset=")[2].partition(";")[0].strip(' "')
    try:
        return answer.body.decode({"iso-8859-1": "latin-1", "latin1": "latin-1"}.get(charset, "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AnswerRefused(Reason.RESPONSE_TYPE_NOT_ALLOWED, "The platform's answer is not UTF-8 text.") from error


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

"""Identifiers and what may be in them. Subjects are opaque keys: no name or e-mail address leaves the edge."""

from __future__ import annotations

import binascii
import hashlib
import re
import unicodedata

CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ACTION_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){1,5}")
SUBJECT_KEY = re.compile(r"[A-Za-z0-9_-]{43}")  # what `subject_key` makes
TASK_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


_TO_BASE64URL = bytes.maketrans(b"+/", b"-_")


def base64url(data: bytes) -> str:
    """RFC 4648 section 5, without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_BASE64URL, b"=").decode("ascii")


def digest(*parts: str) -> str:
    """SHA-256 over length-prefixed parts, base64url: two different lists of parts never meet in one key."""
    framed = bytearray()
    for part in parts:
        raw = part.encode()
        framed += len(raw).to_bytes(4, "big")
        framed += raw
    return base64url(hashlib.sha256(framed).digest())


def subject_key(tenant: str, idp_issuer: str, idp_subject: str) -> str:
    """The stable opaque `sub` of a user: the same for every connection and agent, different in every tenant."""
    return digest("cab-subject", tenant, idp_issuer, idp_subject)


def token_sha256(token: str) -> str:
    """How a token is named in stores and audit: its hash, never a part of it."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_printable(text: str, *, max_length: int = 255) -> bool:
    """1 to `max_length` characters, none of them control, format (bidi, zero width), surrogate or unassigned."""
    if not 0 < len(text) <= max_length:
        return False
    if text.isascii():
        return text.isprintable()
    return not any(unicodedata.category(char)[0] == "C" for char in text)

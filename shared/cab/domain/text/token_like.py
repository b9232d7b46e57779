"""Text that looks like a credential, wherever people and agents may write: its fingerprint takes its place in the record."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise
from typing import Final
from urllib.parse import unquote

MARK: Final = "[token sha-256:"  # how every fingerprint begins
_KNOWN: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}(?:KEY|CERTIFICATE)[A-Z0-9 ]{0,20}-----[^\"]*?(?:-----END [A-Z0-9 ]{0,60}-----|\Z|(?=\"))"
    r"|eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"  # JWS, JWE, or the beginning of one
    r"|(?<![A-Za-z0-9])(?:gh[opusr]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|gl(?:pat|rt|dt|oas|ptt|cbt|ft|soat|imt|agent)-[\w-]{16,}"
    r"|xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"
    r"|(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}|whsec_[A-Za-z0-9+/=]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|ya29\.[\w-]{10,}|1//[\w-]{20,}|AIza[\w-]{30,}|GOCSPX-[\w-]{20,}"
    r"|shp(?:at|ca|pa|ss|ua|prt)_[A-Za-z0-9]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{16,}|hvs\.[\w-]{20,}|dop_v1_[a-f0-9]{32,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|ATATT[\w=-]{20,}|00D[A-Za-z0-9]{12,15}![\w.]{20,}|pat-[a-z]{2}\d-[a-f0-9-]{30,}"
    r"|1000\.[a-f0-9]{32}\.[a-f0-9]{32}|dapi[a-f0-9]{32}(?:-\d)?|key-[a-f0-9]{32}|NRAK-[A-Z0-9]{20,}"
    r"|(?:na|eu|ap)\d-[a-f0-9]{4,8}(?:-[a-f0-9]{4}){2,3}-[a-f0-9]{12}"
    r"|[12]/\d{8,20}(?:/\d{8,20})?:[a-f0-9]{32}|[\w~.-]{3}\dQ~[\w~.-]{31,34})"
)
# Neither of these is what follows a name of ours: sha-256:...
_RUN: Final = re.compile(r"(?<![A-Za-z0-9_-])(?<!sha-256:)[A-Za-z0-9_+/=-]{32,}")
_HEX: Final = re.compile(
    r"(?<![A-Za-z0-9])(?<!sha-256:)(?=[0-9]*[A-Fa-f])(?=[A-Fa-f]*[0-9])[0-9A-Fa-f]{40,}(?![A-Za-z0-9])"
)
_ENCODED: Final = re.compile(r"[^\s\"'<>{}]*%[0-9A-Fa-f]{2}[^\s\"'<>{}]*")
# No token has a space, a line's end or a quotation mark in it. So most text has no word that is long enough for one, which is soon seen:
# all shorter words before it are read once.
_LONG: Final = re.compile(
    r'(?:[^ "\n]{0,14}+[ "\n])*+[^ "\n]{15}'
)  # as all known ones are but the first two, found by their beginnings
_AS_LONG_AS_A_RUN: Final = re.compile(r'(?:[^ "\n]{0,31}+[ "\n])*+[^ "\n]{32}')
_PARTS: Final = re.compile(r"[A-Za-z0-9]+")
# A random character is of another class (capital, small, digit) than its neighbour in 62 of 100 places; in names and ids
# that people or systems make, in few.
_RANDOM_FROM: Final = 0.36
_RANDOM_OF_TWO_FROM: Final = 0.2  # digits and letters of one kind change in 30 (base 32) to 40 of 100


def fingerprint(text: str) -> str:
    """What stands for a credential: enough to find it again by whoever has it, nothing of it."""
    return f"{MARK}{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}]"


def without_tokens(text: str) -> str:
    """`text` with everything that looks like a credential replaced by its fingerprint; JSON text stays JSON.

    Looks through percent-encoding, twice. UUIDs, record ids and hashes of ours stay. Hexadecimal of 40 digits and more does
    not: many systems' keys look like digests and commit ids do.
    """
    if not (_LONG.match(text) or "%" in text or "eyJ" in text or "-----BEGIN" in text):
        return text
    text = _KNOWN.sub(_replaced, text)
    if _AS_LONG_AS_A_RUN.match(text):
        text = _HEX.sub(_replaced, text)
        text = _RUN.sub(lambda run: _replaced(run) if _looks_random(run[0]) else run[0], text)
    return _ENCODED.sub(lambda run: _replaced(run) if _hides_token(run[0]) else run[0], text) if "%" in text else text


def _replaced(found: re.Match[str]) -> str:
    return fingerprint(found[0])


def _hides_token(encoded: str) -> bool:
    once = unquote(encoded)
    return any(
        _KNOWN.search(decoded) or _HEX.search(decoded) or any(_looks_random(run[0]) for run in _RUN.finditer(decoded))
        for decoded in (once, unquote(once))
    )


def _looks_random(run: str) -> bool:
    """All of it together, where it has three classes; of letters of one kind and digits what is long and unbroken, as no UUID is."""
    parts = _PARTS.findall(run)
    letters = "".join(parts)
    if len(letters) >= 30 and len(set(_classes(letters))) == 3 and _changes(letters) >= _RANDOM_FROM:
        return True
    return any(
        len(part) >= 40 and "digit" in _classes(part) and _changes(part) >= _RANDOM_OF_TWO_FROM for part in parts
    )


def _classes(letters: str) -> list[str]:
    return ["digit" if char.isdigit() else "capital" if char.isupper() else "small" for char in letters]


def _changes(letters: str) -> float:
    """In which share of all places a character is of another class than its neighbour."""
    return sum(one != other for one, other in pairwise(_classes(letters))) / (len(letters) - 1)

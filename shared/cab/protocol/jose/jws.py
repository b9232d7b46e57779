"""The one strict JWS verifier (RFC 7515 compact form, RFC 8725). Nothing else in the code base decodes a token.

Two steps, two types: `parse` gives an `UnverifiedToken`, good only for finding the key; `verify` gives `VerifiedClaims`.
`cryptography` verifies signatures and makes them, PyJWT reads our private keys; what PyJWT would leave lax (it accepts duplicate
members, any `typ`, string `exp`, padding) is checked here.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from cab.domain.errors import Claimed
from cab.domain.identifiers import base64url, is_printable
from cab.encoding import strict_json
from cab.protocol.jose.jwk import ALGORITHMS, VerificationKey, signature
from cab.values import immutable

MAX_TOKEN_CHARS: Final = 16_384
MAX_HEADER_CHARS: Final = 8192  # room for a certificate chain
MAX_AUDIENCES: Final = 100  # ZITADEL names every client of a project
LEEWAY: Final = timedelta(seconds=30)  # also added to the life of every single-use mark, see cab.stores.single_use
_TO_BASE64: Final = bytes.maketrans(b"-_+/=", b"+/***")  # what base64url does not have becomes what base64 has not
# What a segment may end with whose length is so much over a multiple of four: the bits that belong to no byte are zero.
_ENDS: Final = {2: "AQgw", 3: "AEIMQUYcgkosw048"}
_NUMBERS: Final = (int, float)
NOT_VERIFIED: Final = "signature does not verify"
_AROUND: Final = re.compile(r"[\s\"'=]")  # of the header `Authorization`, of JSON, of a file's last line, or padding
# Header members that let the sender choose a key, a critical extension or another encoding: never honoured, and refused
# unless the kind of token carries them by design.
FORBIDDEN_HEADERS: Final = frozenset({"crit", "b64", "zip", "cty", "jku", "x5u", "x5c", "jwk"})
CERTIFICATE_HEADERS: Final = frozenset({"jku", "x5u", "x5c"})  # what identity providers may add; nobody reads them here


class TokenRejected(Exception):
    """The token must not be used. `why` is a fixed phrase for the audit event; `expired` is the one fault that a new token fixes."""

    def __init__(self, why: str, *, expired: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.expired = expired


@immutable
class UnverifiedToken:
    """A well-formed token of unknown origin. Its claims may choose which key to look up, nothing more."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes

    @property
    def algorithm(self) -> str:
        return str(self.header["alg"])

    @property
    def kid(self) -> str | None:
        return self.header.get("kid")

    @property
    def unverified_issuer(self) -> str:
        issuer = self.claims.get("iss")
        if not isinstance(issuer, str) or not is_printable(issuer, max_length=500):
            raise TokenRejected("iss is missing or malformed")
        return issuer


@immutable
class VerifiedClaims:
    """Claims whose signature, type, issuer, audience and times were checked."""

    claims: Mapping[str, Any]
    issuer: str
    expires_at: datetime
    issued_at: datetime | None
    checked_at: datetime | None = None  # the present of the verifier; None for claims that were verified before
    key: VerificationKey | None = field(default=None, repr=False, compare=False)  # what verified them

    def text(self, name: str, *, max_length: int = 255) -> str:
        """A required string claim of printable characters. Raises TokenRejected."""
        value = self.claims.get(name)
        if not isinstance(value, str) or not is_printable(value, max_length=max_length):
            raise TokenRejected(f"{name} is missing or malformed")
        return value

    def optional_text(self, name: str, *, max_length: int = 255) -> str | None:
        return None if self.claims.get(name) is None else self.text(name, max_length=max_length)

    def optional_time(self, name: str, *, fractions: bool = False) -> int | None:
        """A NumericDate in whole seconds, rounded down where the kind of token may have `fractions`. Raises TokenRejected."""
        value = self.claims.get(name)
        return None if value is None else int(_seconds(value, name, fractions=fractions))


@immutable
class Rules:
    """What one kind of token must look like. Every kind has its own `typ`, issuer and audience, so kinds never mix."""

    typ: frozenset[str | None]
    algorithms: frozenset[str]
    issuer: str
    audiences: frozenset[str]
    max_life: timedelta
    several_audiences: bool = False  # only identity providers put more than one into `aud`
    one_element_audience: bool = False  # the single audience may be in an array: ID-JAGs, older client libraries
    issued_at_required: bool = True
    fractions: bool = False  # of seconds, as RFC 7519 section 2 allows; our own kinds have none


def _decode(segment: str) -> bytes:
    """Canonical unpadded base64url only: one byte string has one spelling."""
    over = len(segment) % 4
    try:
        padded = segment.encode("ascii").translate(_TO_BASE64) + b"=" * (-over % 4)
        raw = binascii.a2b_base64(padded, strict_mode=True)
    except ValueError as error:
        raise TokenRejected("not base64url") from error
    if over and segment[-1] not in _ENDS[over]:
        raise TokenRejected("not canonical base64url")
    return raw


def _object(segment: str, what: str) -> dict[str, Any]:
    try:
        return strict_json.load_object(_decode(segment))
    except strict_json.InvalidJson as error:
        raise TokenRejected(f"{what} is not a strict JSON object") from error


@lru_cache(maxsize=256)
def _header(segment: str) -> Mapping[str, Any]:
    header = _object(segment, "header")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRejected("alg is not allowed")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):  # any string (RFC 7515 section 4.1.4): it is only ever compared
        raise TokenRejected("kid is malformed")
    if not isinstance(header.get("typ", ""), str):
        raise TokenRejected("typ is malformed")
    return header


def parse(token: str, *, allowed_headers: frozenset[str] = frozenset()) -> UnverifiedToken:
    """Take a compact JWS apart. Raises TokenRejected.

    `allowed_headers` names members of FORBIDDEN_HEADERS that this kind of token carries by design: `jwk` in DPoP
    proofs, CERTIFICATE_HEADERS in tokens of identity providers.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRejected("too long")
    signing_input, second, signature = token.rpartition(".")
    header, first, payload = signing_input.partition(".")
    if not (first and second) or "." in payload or len(header) > MAX_HEADER_CHARS or not token.isascii():
        raise TokenRejected(_why_no_jws(token))
    try:
        return _taken_apart(header, payload, signing_input, signature, allowed_headers)
    except TokenRejected:
        if _AROUND.search(token):
            raise TokenRejected("something stands around the token: quotes, white space, padding or a scheme") from None
        raise


def _taken_apart(
    header_segment: str, payload: str, signing_input: str, signature: str, allowed_headers: frozenset[str]
) -> UnverifiedToken:
    header = _header(header_segment)
    if not FORBIDDEN_HEADERS.isdisjoint(header.keys() - allowed_headers):
        raise TokenRejected("a header member is not allowed")
    return UnverifiedToken(
        header=header,
        claims=_object(payload, "payload"),
        signing_input=signing_input.encode("ascii"),
        signature=_decode(signature),
    )


def _why_no_jws(token: str) -> str:
    """What clients send in place of a signed token: for those who look for their mistake."""
    dots = token.count(".")
    if dots == 4 and token.startswith("eyJ"):
        return "encrypted (a JWE): ask for a signed token"
    if token and dots == 0 and token.isascii():
        return "an opaque token, no JWS"
    return "not a compact JWS"


def claimed_by(token: str) -> Claimed:
    """Who a token says that it is of, read as generously as its faults allow. For the audit of its refusal, nothing else."""
    segments = token.split(".", 3)
    if len(token) > MAX_TOKEN_CHARS or len(segments) < 2:
        return Claimed()
    try:
        claims = _object(segments[1], "payload")
    except TokenRejected:
        return Claimed()
    issuer, subject = claims.get("iss"), claims.get("sub")
    own = subject if issuer is None or issuer == subject else None  # a client's own assertion names it twice
    named = (claims.get("client_id"), claims.get("azp"), own)
    return Claimed(
        client_id=next((name for name in named if isinstance(name, str)), None),
        issuer=issuer if isinstance(issuer, str) else None,
    )


def verify(token: UnverifiedToken, key: VerificationKey, rules: Rules, *, now: datetime) -> VerifiedClaims:
    """Check type, algorithm, signature, issuer, audience and times. Raises TokenRejected; nothing is skippable."""
    check_type(token, rules)
    check_signature(token, key, rules)
    check_issuer(token, rules)
    check_audience(token, rules)
    issued_at, expires_at = check_times(token, rules, now)
    return VerifiedClaims(
        claims=token.claims,
        issuer=rules.issuer,
        expires_at=expires_at,
        issued_at=issued_at,
        checked_at=now,
        key=key,
    )


# The steps of `verify`, each by itself for `cab idp check`. Each raises TokenRejected.


def check_type(token: UnverifiedToken, rules: Rules) -> None:
    typ = token.header.get("typ")
    if (typ.lower() if isinstance(typ, str) else typ) not in rules.typ:
        raise TokenRejected("typ is not of this kind of token")


def check_signature(token: UnverifiedToken, key: VerificationKey, rules: Rules) -> None:
    if token.algorithm not in rules.algorithms or token.algorithm != key.algorithm:
        raise TokenRejected("alg is not allowed for this key")
    if not key.verifies(token.signing_input, token.signature):
        raise TokenRejected(NOT_VERIFIED)


def check_issuer(token: UnverifiedToken, rules: Rules) -> None:
    if token.claims.get("iss") != rules.issuer:
        raise TokenRejected("iss is not the expected issuer")


def check_audience(token: UnverifiedToken, rules: Rules) -> None:
    audience = token.claims.get("aud")
    if isinstance(audience, str):
        if audience not in rules.audiences:
            raise TokenRejected("aud is not us")
        return
    if not isinstance(audience, list) or not 1 <= len(audience) <= MAX_AUDIENCES:
        raise TokenRejected("aud is missing or malformed")
    if not (rules.several_audiences or (rules.one_element_audience and len(audience) == 1)):
        raise TokenRejected("aud must be a single string")
    if not all(isinstance(value, str) for value in audience):
        raise TokenRejected("aud is missing or malformed")
    if not any(value in rules.audiences for value in audience):
        raise TokenRejected("aud is not us")


def _seconds(value: object, name: str, *, fractions: bool) -> float:
    """A NumericDate (RFC 7519 section 2) that a double holds exactly, whole ones as integers. JSON has no infinite one."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not 0 <= value < 2**53:
        raise TokenRejected(f"{name} is not a number of seconds")
    whole = int(value)
    if value == whole:
        return whole
    if not fractions:
        raise TokenRejected(f"{name} is not a whole number of seconds")
    return value


def check_times(token: UnverifiedToken, rules: Rules, now: datetime) -> tuple[datetime | None, datetime]:
    """When the token was issued and when it ends."""
    claims = token.claims
    expires_at = _instant(claims.get("exp"), "exp", rules)
    if expires_at <= now - LEEWAY:
        raise TokenRejected("expired", expired=True)
    if expires_at > now + rules.max_life + LEEWAY:
        raise TokenRejected("exp is too far away" if "iat" in claims else "lives too long")
    if "nbf" in claims and _instant(claims["nbf"], "nbf", rules) > now + LEEWAY:
        raise TokenRejected("not valid yet")
    if "iat" not in claims:
        if rules.issued_at_required:
            raise TokenRejected("iat is missing")
        return None, expires_at
    issued_at = _instant(claims["iat"], "iat", rules)
    if issued_at > now + LEEWAY:
        raise TokenRejected("iat is in the future")
    if expires_at <= issued_at or expires_at - issued_at > rules.max_life:
        raise TokenRejected("lives too long")
    return issued_at, expires_at


def _instant(value: object, name: str, rules: Rules) -> datetime:
    try:
        return datetime.fromtimestamp(_seconds(value, name, fractions=rules.fractions), UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise TokenRejected(f"{name} is out of range") from error


def sign(claims: Mapping[str, Any], *, typ: str, kid: str, private_key: Any) -> str:
    """A compact JWS (RFC 7515 section 7.1). `private_key` is a `cryptography` key: P-256 signs ES256, RSA signs RS256."""
    algorithm = "RS256" if isinstance(private_key, RSAPrivateKey) else "ES256"
    header = base64url(_compact({"typ": typ, "alg": algorithm, "kid": kid}))
    signing_input = f"{header}.{base64url(_compact(claims))}"
    return f"{signing_input}.{base64url(signature(private_key, signing_input.encode('ascii')))}"


def _compact(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value)

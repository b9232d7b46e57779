"""Public keys of JSON Web Key Sets (RFC 7517), read strictly: a doubtful key is no key."""

from __future__ import annotations

import functools
import hashlib
from base64 import urlsafe_b64decode
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from cab.domain.identifiers import base64url
from cab.encoding import strict_json
from cab.encoding.canonical_json import canonical
from cab.values import immutable

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm

ALGORITHMS: Final = frozenset({"ES256", "RS256"})
P256_BYTES: Final = 32
_SHA256: Final = hashes.SHA256()
_ECDSA: Final = ec.ECDSA(_SHA256)
_PKCS1: Final = padding.PKCS1v15()
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192  # a larger modulus only burns our CPU
MAX_KEYS: Final = 1000
# Primes for which 65537 generates a proper subgroup: every modulus of the flawed Infineon library lies in it for each of them
# (Nemec et al., "The Return of Coppersmith's Attack", CCS 2017, section 2.3). A sound key does so once in 2^27.
_ROCA_PRIMES: Final = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
_ROCA_RESIDUES: Final = tuple(
    (prime, frozenset(pow(65537, power, prime) for power in range(prime))) for prime in _ROCA_PRIMES
)
ROCA: Final = "was made by a library whose keys can be factored (ROCA)"
PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class InvalidKey(ValueError):
    """The key or the set must not be used."""


@immutable
class PublicKey:
    """A verification key bound to exactly one algorithm."""

    kid: str | None
    algorithm: str
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        try:
            if isinstance(self.key, rsa.RSAPublicKey):
                self.key.verify(signature, signing_input, _PKCS1, _SHA256)
            elif len(signature) == 2 * P256_BYTES:  # RFC 7518 section 3.4: R and S, as long as the curve's order
                r, s = int.from_bytes(signature[:P256_BYTES]), int.from_bytes(signature[P256_BYTES:])
                self.key.verify(encode_dss_signature(r, s), signing_input, _ECDSA)
            else:
                return False
        except InvalidSignature:
            return False
        return True


def signature(private_key: Any, signing_input: bytes) -> bytes:
    """As `PublicKey.verifies` wants it, with a `cryptography` key: P-256 signs ES256, RSA signs RS256."""
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(signing_input, _PKCS1, _SHA256)
    r, s = decode_dss_signature(private_key.sign(signing_input, _ECDSA))
    return r.to_bytes(P256_BYTES) + s.to_bytes(P256_BYTES)


@immutable
class OneOf:
    """Keys of one algorithm of which a token does not say whose it is (RFC 7515 section 4.1.4: `kid` is optional)."""

    keys: tuple[PublicKey, ...]

    @property
    def kid(self) -> None:
        return None

    @property
    def algorithm(self) -> str:
        return self.keys[0].algorithm

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        return any(key.verifies(signing_input, signature) for key in self.keys)


VerificationKey = PublicKey | OneOf
KeySet = dict[str | int, PublicKey]


def parse(jwk: dict[str, Any]) -> PublicKey:
    """One public signature key. Raises InvalidKey: wrong type, curve, size, use, algorithm, or with private parts.

    A member that is null counts as absent: some serializers write out what they do not have.
    """
    jwk = {name: value for name, value in jwk.items() if value is not None}
    if PRIVATE_MEMBERS & jwk.keys():
        raise InvalidKey("holds private or symmetric key material")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise InvalidKey("is not for signatures")
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):  # any string: RFC 7517 section 4.5
        raise InvalidKey("has a malformed kid")
    kind = (jwk.get("kty"), jwk.get("crv"))
    if kind == ("EC", "P-256"):
        algorithm = "ES256"
    elif kind == ("RSA", None):
        algorithm = "RS256"
    else:
        raise InvalidKey("has an unsupported type or curve")
    if jwk.get("alg", algorithm) != algorithm:
        raise InvalidKey("names another algorithm than its type allows")
    try:
        key = _p256(jwk) if algorithm == "ES256" else _rsa(jwk)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidKey("is malformed") from error
    if isinstance(key, rsa.RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS or key.public_numbers().e < 65537:
            raise InvalidKey("has an unacceptable RSA size or exponent")
        if all(key.public_numbers().n % prime in residues for prime, residues in _ROCA_RESIDUES):
            raise InvalidKey(ROCA)
    return PublicKey(kid=kid, algorithm=algorithm, key=key)


def _p256(jwk: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    """RFC 7518 section 6.2.1. Raises ValueError (not a point of the curve, too), TypeError, KeyError."""
    x, y = _decoded(jwk["x"]), _decoded(jwk["y"])
    if not len(x) == len(y) == P256_BYTES:
        raise ValueError("coordinates have the length of the curve's order")
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()


def _rsa(jwk: dict[str, Any]) -> rsa.RSAPublicKey:
    """RFC 7518 section 6.3.1. Raises ValueError, TypeError, KeyError."""
    return rsa.RSAPublicNumbers(int.from_bytes(_decoded(jwk["e"])), int.from_bytes(_decoded(jwk["n"]))).public_key()


def _decoded(text: object) -> bytes:
    """base64url, with padding or without, read as generously as PyJWT reads it: a number that was read wrong verifies nothing."""
    if not isinstance(text, str):
        raise TypeError("a number is text")
    raw = text.encode()
    return urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))


@functools.cache
def pyjwt(algorithm: str) -> Algorithm:
    """What reads private keys. Imported by who does: it is a twentieth of a cold start of exchange_token."""
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm  # noqa: PLC0415

    return ECAlgorithm(ECAlgorithm.SHA256) if algorithm == "ES256" else RSAAlgorithm(RSAAlgorithm.SHA256)


def private_key(members: dict[str, Any]) -> Any:
    """A signing key of our own (EC, P-256), as `cryptography` knows it."""
    return pyjwt("ES256").from_jwk(members)


def parse_private(raw: bytes) -> tuple[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]:
    """A signing key of our own in JSON, with its kid. Raises InvalidKey: as `parse`, or without kid or private part."""
    from jwt.exceptions import InvalidKeyError  # noqa: PLC0415 - see `pyjwt`

    try:
        members = strict_json.load_object(raw)
        public = parse({name: value for name, value in members.items() if name not in PRIVATE_MEMBERS | {"key_ops"}})
        key = pyjwt(public.algorithm).from_jwk(members)
    except (strict_json.InvalidJson, InvalidKeyError, ValueError, TypeError, KeyError) as error:
        raise InvalidKey("is no usable signing key") from error
    if public.kid is None or not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidKey("has no kid or no private part")
    return public.kid, key


@immutable
class Member:
    """One member of a key set: its key, or why it is none. `kid` only where it is text."""

    kid: str | None
    key: PublicKey | None
    why_not: str = ""


def members(document: dict[str, Any]) -> list[Member]:
    """What each member of a set is, in its order. Raises InvalidKey: no key set, or a symmetric key, which makes it suspect."""
    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise InvalidKey("is not a key set")
    if any(isinstance(it, dict) and it.get("kty") == "oct" for it in listed):
        raise InvalidKey("holds a symmetric key")
    read = [_member(it) for it in listed]
    meant: dict[str | None, set[Any]] = defaultdict(set)  # which keys a kid stands for
    for it in read:
        if it.key:
            meant[it.kid].add(it.key.key.public_numbers())
    return [
        Member(it.kid, None, "shares its kid with another key")
        if it.key and it.kid is not None and len(meant[it.kid]) > 1
        else it
        for it in read
    ]


def _member(value: object) -> Member:
    if not isinstance(value, dict):
        return Member(None, None, "is no object")
    kid = value.get("kid")
    name = kid if isinstance(kid, str) else None
    try:
        return Member(name, parse(value))
    except InvalidKey as error:
        return Member(name, None, str(error))


def parse_set(document: dict[str, Any]) -> KeySet:
    """The usable keys by kid; those without one (RFC 7517 section 4.5: it is optional) by their position.

    A member that cannot be used is left out and never drops the good ones; a kid of two keys makes both unusable, one key
    that is listed twice is one; a symmetric key makes the whole set suspect. Raises InvalidKey when the set is refused or
    nothing usable is left.
    """
    usable: KeySet = {
        position if it.kid is None else it.kid: it.key for position, it in enumerate(members(document)) if it.key
    }
    if not usable:
        raise InvalidKey("has no usable key")
    return usable


def parse_set_bytes(body: bytes) -> KeySet:
    """As `parse_set`. A byte order mark at the start is ignored (RFC 8259 section 8.1)."""
    try:
        return parse_set(strict_json.load_document(body))
    except strict_json.InvalidJson as error:
        raise InvalidKey("is not JSON") from error


def public_jwk(private_jwk: dict[str, Any]) -> dict[str, Any]:
    """The publishable half of an EC key, with `use` and `alg` (RFC 7517 section 4)."""
    return {name: private_jwk[name] for name in ("kty", "crv", "x", "y", "kid")} | {"use": "sig", "alg": "ES256"}


def thumbprint(jwk: dict[str, Any]) -> str:
    """RFC 7638, SHA-256, base64url: the `jkt` of RFC 9449."""
    names = ("crv", "kty", "x", "y") if jwk.get("kty") == "EC" else ("e", "kty", "n")
    return base64url(hashlib.sha256(canonical({name: jwk[name] for name in names})).digest())

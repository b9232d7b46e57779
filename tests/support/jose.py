"""JOSE for tests, written apart from `cab.protocol`: a mistake there cannot hide behind the same mistake here.

Keys are made once per process and name, so that a test costs no key generation.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


class _Absent:
    """Leaves a member out where a builder would put its default."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def present(members: dict[str, Any]) -> dict[str, Any]:
    """Without the members that are ABSENT."""
    return {name: value for name, value in members.items() if value is not ABSENT}


@dataclass(frozen=True)
class Key:
    """A signing key with its `kid` and its one algorithm, ES256 or RS256."""

    kid: str
    algorithm: str
    private: Any = field(repr=False)  # an address in a test's name would differ from process to process

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half, as it stands in a key set."""
        numbers = self.private.public_key().public_numbers()
        common = {"kid": self.kid, "use": "sig", "alg": self.algorithm}
        if self.algorithm == "RS256":
            size = (self.private.key_size + 7) // 8
            return {"kty": "RSA", "n": b64(numbers.n.to_bytes(size, "big")), "e": "AQAB"} | common
        return {
            "kty": "EC",
            "crv": "P-256",
            "x": b64(numbers.x.to_bytes(32, "big")),
            "y": b64(numbers.y.to_bytes(32, "big")),
        } | common

    @property
    def private_jwk(self) -> dict[str, Any]:
        return self.jwk | {"d": b64(self.private.private_numbers().private_value.to_bytes(32, "big"))}

    def signature(self, signing_input: bytes) -> bytes:
        if self.algorithm == "RS256":
            return _rs256(self.private, signing_input)
        r, s = decode_dss_signature(self.private.sign(signing_input, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def sign(self, claims: dict[str, Any] | bytes, header: dict[str, Any] | bytes | None = None) -> str:
        """A compact JWS. Bytes are signed as they are; a header member that is ABSENT is left out."""
        if not isinstance(header, bytes):
            header = present({"alg": self.algorithm, "kid": self.kid, **(header or {})})
        parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
        signing_input = f"{b64(parts[0])}.{b64(parts[1])}"
        return f"{signing_input}.{b64(self.signature(signing_input.encode()))}"


@lru_cache(1000)
def _rs256(private: Any, signing_input: bytes) -> bytes:
    """Remembered, as it takes long and is the same each time: the clock of a test stands still, so do many claims."""
    signed: bytes = private.sign(signing_input, padding.PKCS1v15(), hashes.SHA256())
    return signed


@cache
def ec_key(name: str) -> Key:
    return Key(name, "ES256", ec.generate_private_key(ec.SECP256R1()))


@cache
def rsa_key(name: str, bits: int = 2048) -> Key:
    return Key(name, "RS256", rsa.generate_private_key(public_exponent=65537, key_size=bits))


def key_set(*keys: Key) -> dict[str, Any]:
    return {"keys": [key.jwk for key in keys]}


def header_of(token: str) -> Any:
    return json.loads(unb64(token.split(".", maxsplit=1)[0]))


def claims_of(token: str) -> Any:
    """What a token says, unverified."""
    return json.loads(unb64(token.split(".")[1]))


def sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

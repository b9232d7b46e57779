"""Stand-in for PyJWT: the same calls, and signatures that only tell keys apart. For one purpose: the client under 3.14."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any


class PyJWTError(Exception):
    pass


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _data(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _point(private: str, name: str) -> str:
    return _text(hashlib.sha256(f"{name}{private}".encode()).digest())


class PyJWK:
    def __init__(self, jwk: dict[str, Any], algorithm: str | None = None) -> None:
        self.key = jwk["x"] + jwk["y"]
        self.key_id, self.algorithm_name = jwk.get("kid"), algorithm or "ES256"


class PyJWKSet:
    def __init__(self, keys: list[PyJWK]) -> None:
        self.keys = keys

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> PyJWKSet:
        return cls([PyJWK(jwk) for jwk in document["keys"]])


class algorithms:  # noqa: N801 - a module there
    class ECAlgorithm:
        @staticmethod
        def to_jwk(key: str, *, as_dict: bool) -> dict[str, Any]:
            assert as_dict
            return {"kty": "EC", "crv": "P-256", "x": _point(key, "x"), "y": _point(key, "y"), "d": key}


def _signature(key: str, signed: str) -> str:
    return _text(hashlib.sha256(f"{key}.{signed}".encode()).digest())


def encode(claims: dict[str, Any], key: str, *, algorithm: str, headers: dict[str, Any]) -> str:
    header = {"alg": algorithm, "typ": "JWT"} | headers
    signed = f"{_text(json.dumps(header).encode())}.{_text(json.dumps(claims).encode())}"
    return f"{signed}.{_signature(key, signed)}"


def get_unverified_header(token: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] = _data(token.split(".", maxsplit=1)[0])
    except ValueError as error:
        raise PyJWTError from error
    return header


def decode(token: str, key: Any = None, *, options: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    try:
        signed, _, signature = token.rpartition(".")
        claims: dict[str, Any] = _data(signed.partition(".")[2])
    except ValueError as error:
        raise PyJWTError from error
    if options.get("verify_signature") is False:
        return claims
    good = signature == _signature(getattr(key, "key", key), signed)
    good = good and all(claims.get(name) is not None for name in options.get("require", ()))
    good = good and claims.get("exp", time.time() + 1) > time.time()
    for name, claim in (("audience", "aud"), ("issuer", "iss")):
        good = good and (name not in wanted or claims.get(claim) == wanted[name])
    if not good:
        raise PyJWTError
    return claims

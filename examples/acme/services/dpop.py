"""Proofs of possession at a resource: the caller of a bound token shows the key it is bound to.  RFC 9449 section 4.3."""

import base64
import hashlib
import json
import threading
import time
from typing import Any

import jwt

from examples.acme.services.token_verifier import TokenRejected

_OLDEST_S = 60
_LEEWAY_S = 5
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def _base64url_sha256(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")


def jwk_thumbprint(jwk: dict[str, Any]) -> str:
    """The SHA-256 thumbprint of a P-256 key.  RFC 7638 section 3."""
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    return _base64url_sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode())


class ProofVerifier:
    """Verifies proofs for this resource; remembers each until it could not be used again. Safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}

    def verify(self, proof: str, *, method: str, url: str, access_token: str, thumbprint: str) -> None:
        """Check that `proof` was made now, for this request and this token, by the key with that thumbprint.

        `url` is the request's address without query and fragment. Raises TokenRejected.
        """
        try:
            header = jwt.get_unverified_header(proof)
            jwk = header["jwk"]
            if header["typ"] != "dpop+jwt" or header["alg"] != "ES256" or _PRIVATE_MEMBERS & jwk.keys():
                raise TokenRejected
            claims = jwt.decode(
                proof,
                jwt.PyJWK(jwk, algorithm="ES256"),
                algorithms=["ES256"],
                options={"require": ["jti", "iat"], "verify_iat": False, "verify_exp": False, "verify_nbf": False},
            )
            matches = (
                jwk_thumbprint(jwk) == thumbprint
                and claims.get("htm") == method
                and claims.get("htu") == url
                and claims.get("ath") == _base64url_sha256(access_token.encode())
            )
            fresh = type(claims["iat"]) is int and -_OLDEST_S <= claims["iat"] - time.time() <= _LEEWAY_S
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, AttributeError) as exc:
            raise TokenRejected from exc
        if not (matches and fresh and self._is_first_use(f"{thumbprint}:{claims['jti']}")):
            raise TokenRejected

    def _is_first_use(self, use: str) -> bool:
        now = time.monotonic()
        with self._lock:
            self._seen = {seen: until for seen, until in self._seen.items() if now < until}
            if use in self._seen:
                return False
            self._seen[use] = now + _OLDEST_S + _LEEWAY_S + 1
            return True

"""The signing keys of the demo identity provider: RS256, several published at once, rotated on request."""

import secrets
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

_KEPT = 3  # the signing key, the one before it, the one after it


class SigningKeys:
    """Publishes the next key before it signs, and the previous one after it has stopped."""

    def __init__(self) -> None:
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self._signing_kid = self._add()
        self._next_kid = self._add()

    def _add(self) -> str:
        kid = "acme-" + secrets.token_hex(4)
        self._keys[kid] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return kid

    @property
    def signing_kid(self) -> str:
        return self._signing_kid

    def rotate(self, *, forget_old: bool = False) -> None:
        """Sign with the key that was published next. `forget_old` withdraws the previous key at once."""
        previous, self._signing_kid = self._signing_kid, self._next_kid
        self._next_kid = self._add()
        if forget_old:
            del self._keys[previous]
        while len(self._keys) > _KEPT:
            del self._keys[next(iter(self._keys))]

    def jwks(self) -> dict[str, Any]:
        """The public set. RFC 7517."""
        return {"keys": [self._public(kid, key) for kid, key in self._keys.items()]}

    @staticmethod
    def _public(kid: str, key: rsa.RSAPrivateKey) -> dict[str, Any]:
        members: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": members["n"], "e": members["e"]}

    def sign(self, claims: Mapping[str, Any], *, typ: str = "JWT", unpublished_key: bool = False) -> str:
        """A JWT over `claims`; with `unpublished_key` by a key that no JWKS of ours has ever shown."""
        if unpublished_key:
            stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            kid = "acme-" + secrets.token_hex(4)
            return jwt.encode(dict(claims), stranger, algorithm="RS256", headers={"kid": kid, "typ": typ})
        headers = {"kid": self._signing_kid, "typ": typ}
        return jwt.encode(dict(claims), self._keys[self._signing_kid], algorithm="RS256", headers=headers)

    def verify(self, token: str, *, typ: str, issuer: str, audience: str, now: float) -> dict[str, Any]:
        """The claims of a JWT of ours that has not expired. Raises jwt.PyJWTError."""
        header = jwt.get_unverified_header(token)
        key = self._keys.get(str(header.get("kid")))
        if key is None or header.get("typ") != typ:
            raise jwt.InvalidTokenError
        claims: dict[str, Any] = jwt.decode(
            token,
            key.public_key(),
            algorithms=["RS256"],
            issuer=issuer,
            audience=audience,
            options={"require": ["exp", "sub"], "strict_aud": True, "verify_exp": False, "verify_iat": False},
        )
        if claims["exp"] <= now:  # by the clock of this service, which tests move
            raise jwt.ExpiredSignatureError
        return claims

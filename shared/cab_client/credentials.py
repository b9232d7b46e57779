"""Who the workload is, towards the broker, and proofs of possession (RFC 9449)."""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol
from urllib.parse import quote, urlencode

from cab_client.errors import Misconfigured, TryLater
from cab_client.flows import CannotConnect, Flow, NoAnswer, Send
from cab_client.values import HiddenFields, Secret, digest, secret

CLIENT_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFE_S = 60
_RENEW_BEFORE_S = 300.0


@dataclass(frozen=True)
class ClientProof:
    """What proves the client in one request."""

    fields: Mapping[str, str] = field(default_factory=HiddenFields)
    headers: Mapping[str, str] = field(default_factory=HiddenFields)


class ClientCredential(Protocol):
    """Made anew for every request: a signed assertion works once."""

    def prove(self, issuer: str) -> Flow[ClientProof]: ...


def _signed(assertion: str) -> ClientProof:
    return ClientProof(HiddenFields(client_assertion_type=CLIENT_ASSERTION_TYPE, client_assertion=assertion))


class _Unpicklable:
    def __reduce_ex__(self, _: Any) -> NoReturn:
        raise TypeError("keys and secrets are not pickled or copied")


class PrivateKeyJwt(_Unpicklable):
    """RFC 7523 section 2.2: an ES256 assertion for the issuer, good for a minute and for one request.

    `key` is a JWK, `key_file` the path of one in JSON (a private P-256 key).
    """

    def __init__(
        self,
        client_id: str,
        *,
        key: Mapping[str, Any] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if (key is None) == (key_file is None):
            raise ValueError("give key or key_file")
        jwk = dict(key) if key is not None else json.loads(Path(str(key_file)).read_text("utf-8"))
        if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256" or "d" not in jwk:
            raise ValueError("the key must be a private P-256 key as a JWK")
        self.client_id = client_id
        self._jwk = Secret(json.dumps(jwk))
        self._kid: str | None = jwk.get("kid")
        self._key: Any = None
        self._now = now

    def prove(self, issuer: str) -> Flow[ClientProof]:
        import jwt

        if self._key is None:
            self._key = jwt.PyJWK(json.loads(self._jwk.reveal()), algorithm="ES256").key
        now = int(self._now())
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": issuer,
            "iat": now,
            "exp": now + _ASSERTION_LIFE_S,
            "jti": secrets.token_urlsafe(16),
        }
        headers = {"kid": self._kid} if self._kid else None
        return _signed(jwt.encode(claims, self._key, algorithm="ES256", headers=headers))
        yield  # a flow that never needs to ask anybody

    def __repr__(self) -> str:
        return f"PrivateKeyJwt({self.client_id!r})"


class ClientSecret(_Unpicklable):
    """`client_secret_basic`, where an agent's entry allows it: for tools that cannot sign."""

    def __init__(self, client_id: str, client_secret: str | Secret) -> None:
        self.client_id = client_id
        self._secret = secret(client_secret)

    def prove(self, issuer: str) -> Flow[ClientProof]:
        pair = f"{quote(self.client_id, safe='')}:{quote(self._secret.reveal(), safe='')}"
        return ClientProof(headers=HiddenFields(Authorization=f"Basic {base64.b64encode(pair.encode()).decode()}"))
        yield

    def __repr__(self) -> str:
        return f"ClientSecret({self.client_id!r})"


def metadata_host() -> str:
    return os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")


class WorkloadIdentity(_Unpicklable):
    """The identity token that Google's metadata server gives this workload, for the issuer asked.

    Kept until five minutes before its end. `GCE_METADATA_HOST` names another server, as for Google's libraries.
    """

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._kept: dict[str, tuple[Secret, float]] = {}

    def prove(self, issuer: str) -> Flow[ClientProof]:
        kept = self._kept.get(issuer)
        if kept is None or kept[1] - _RENEW_BEFORE_S < self._now():
            kept = self._kept[issuer] = yield from self._fetch(issuer)
        return _signed(kept[0].reveal())

    def _fetch(self, issuer: str) -> Flow[tuple[Secret, float]]:
        path = "computeMetadata/v1/instance/service-accounts/default/identity"
        url = f"http://{metadata_host()}/{path}?{urlencode({'audience': issuer, 'format': 'full'})}"
        try:
            reply = yield Send("GET", url, {"Metadata-Flavor": "Google"}, timeout_s=5.0)
        except (CannotConnect, NoAnswer):
            raise TryLater(
                "metadata_server_unavailable",
                description="The metadata server does not answer: WorkloadIdentity is for Google Cloud, PrivateKeyJwt elsewhere.",
            ) from None
        if reply.status != 200 or reply.headers.get("metadata-flavor", "Google") != "Google":
            raise Misconfigured("metadata_server_refused", description=f"The metadata server said {reply.status}.")
        token = Secret(reply.body.decode("ascii", "replace").strip())
        return token, _end_of(token)

    def __repr__(self) -> str:
        return "WorkloadIdentity()"


def _end_of(token: Secret) -> float:
    """`exp` of our own identity token, which we only keep by it; whoever gets the token verifies it."""
    import jwt

    try:
        return float(jwt.decode(token.reveal(), options={"verify_signature": False})["exp"])
    except (jwt.PyJWTError, KeyError, TypeError, ValueError):
        raise Misconfigured("metadata_server_refused", description="The metadata server gave no token.") from None


class DpopKey(_Unpicklable):
    """A key that tokens are bound to: who has only the token cannot use it.  RFC 9449."""

    def __init__(self, private_key: Any) -> None:
        import jwt

        self._key = private_key
        public: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(private_key.public_key(), as_dict=True)
        self._public = {name: public[name] for name in ("crv", "kty", "x", "y")}

    @classmethod
    def generate(cls) -> DpopKey:
        from cryptography.hazmat.primitives.asymmetric import ec

        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def thumbprint(self) -> str:
        """RFC 7638, as in `cnf.jkt`."""
        return digest(json.dumps(self._public, separators=(",", ":"), sort_keys=True).encode())

    def proof(self, method: str, url: str, *, token: str | None = None, nonce: str | None = None) -> str:
        """A proof for one request. `url` may have a query, which is no part of it."""
        import jwt

        claims: dict[str, Any] = {
            "htm": method,
            "htu": url.partition("#")[0].partition("?")[0],
            "iat": int(time.time()),
            "jti": secrets.token_urlsafe(16),
        }
        if token is not None:
            claims["ath"] = digest(token.encode())
        if nonce is not None:
            claims["nonce"] = nonce
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": self._public})

    def __repr__(self) -> str:
        return f"DpopKey({self.thumbprint!r})"

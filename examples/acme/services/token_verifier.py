"""How a resource that has never heard of CAB's code trusts its tokens: discovery, JWKS and RFC 9068, with PyJWT.

Nothing here is imported from `cab`: this is what a data platform's own team would write.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import jwt

FetchJson = Callable[[str], Any]

_MAX_DOCUMENT_BYTES = 100 * 1024
_KEYS_LIFE_S = 300
_REFETCH_PAUSE_S = 30  # a flood of unknown key ids must not become a flood of fetches
_LEEWAY_S = 30
_REQUIRED = ["iss", "aud", "exp", "iat", "sub", "client_id", "jti"]


class TokenRejected(Exception):
    """The token proves nothing here."""


class IssuerUnavailable(Exception):
    """The issuer's documents cannot be read now; nobody can be let in or turned away for good."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def fetch_json(url: str) -> Any:
    """The JSON document at `url`: http(s), no redirects, at most 100 KiB, 5 s. Raises OSError, ValueError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http and https")
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(url, timeout=5) as response:
        raw = response.read(_MAX_DOCUMENT_BYTES + 1)
    if len(raw) > _MAX_DOCUMENT_BYTES:
        raise ValueError("the document is too large")
    return json.loads(raw)


def metadata_url(issuer: str) -> str:
    """RFC 8414 section 3.1: the well-known part goes between host and path."""
    parts = urlsplit(issuer)
    return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}"


class IssuerKeys:
    """The issuer's current ES256 keys, fetched when needed and kept for five minutes. Safe under threads."""

    def __init__(self, issuer: str, *, fetch: FetchJson = fetch_json) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None

    def key(self, kid: str) -> jwt.PyJWK:
        """The key named `kid`. Raises TokenRejected when the issuer has no such key, IssuerUnavailable."""
        with self._lock:
            age = None if self._fetched_at is None else time.monotonic() - self._fetched_at
            if age is None or age > (_KEYS_LIFE_S if kid in self._keys else _REFETCH_PAUSE_S):
                self._refresh()
            if kid not in self._keys:
                raise TokenRejected
            return self._keys[kid]

    def _refresh(self) -> None:
        try:
            metadata = self._fetch(metadata_url(self._issuer))
            if metadata["issuer"] != self._issuer:
                raise IssuerUnavailable
            published = jwt.PyJWKSet.from_dict(self._fetch(metadata["jwks_uri"])).keys
        except (OSError, ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as exc:
            raise IssuerUnavailable from exc
        self._keys = {key.key_id: key for key in published if key.key_id and key.algorithm_name == "ES256"}
        self._fetched_at = time.monotonic()


class TokenVerifier:
    """Verifies access tokens that `issuer` made for `resource`."""

    def __init__(self, *, issuer: str, resource: str, fetch: FetchJson = fetch_json) -> None:
        self._issuer = issuer
        self._resource = resource
        self._keys = IssuerKeys(issuer, fetch=fetch)

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a good token.  RFC 9068 section 4.

        Checked: `typ`, ES256, signature by the issuer's key, `iss`, `aud` as exactly this resource, times. Whoever
        calls must still look at `cnf`: a token bound to a key needs a proof beside it.

        Raises: TokenRejected, IssuerUnavailable.
        """
        try:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            if header.get("typ") != "at+jwt" or header.get("alg") != "ES256" or not isinstance(kid, str):
                raise TokenRejected
            claims: dict[str, Any] = jwt.decode(
                token,
                self._keys.key(kid),
                algorithms=["ES256"],
                audience=self._resource,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": _REQUIRED, "strict_aud": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
            raise TokenRejected from exc
        return claims

"""Trusted issuers of a provider double, read from a JSON file that says whose JWTs are believed, and about whom.

    {"issuers": [{"issuer": "http://127.0.0.1:8080/oauth2", "jwks_uri": "http://127.0.0.1:8080/oauth2/jwks.json",
                  "audiences": ["cab-at-crm"], "id_jags": true},
                 {"issuer": "cab-calendar", "keys": [{"kty": "EC", "crv": "P-256", "x": "...", "y": "...", "kid": "k1"}]}],
     "subjects": {"FWpk8ZoNHjvyKVHReRvzwoXH_XApFkm8IYMb9GZGCLo": "alice"}}

`subjects` maps names that the issuers use to logins; every account goes by its login, e-mail address and account id as well.
"""

import http.client
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cab_dev.doubles.oauth_provider.settings import Account
from cab_dev.doubles.oauth_provider.trusted_assertions import TrustedIssuer
from cab_dev.doubles.service import read_json_file

_MAX_DOCUMENT_BYTES = 100 * 1024
_KEYS_LIFE_S = 30
_TIMEOUT_S = 5


def load_trusted_issuers(path: str | Path | None, accounts: Iterable[Account]) -> tuple[TrustedIssuer, ...]:
    """The issuers of a file; none when `path` is None. Ends the process on a file that makes no sense."""
    if path is None:
        return ()
    known = {name: item.account_id for item in accounts for name in (item.login, item.email, item.account_id)}
    content = read_json_file(path)
    try:
        subjects = {str(subject): known[login] for subject, login in content.get("subjects", {}).items()}
        return tuple(_issuer(entry, known | subjects) for entry in content["issuers"])
    except (KeyError, TypeError, AttributeError) as exc:
        raise SystemExit(f"{path}: an issuer or a subject is incomplete or unknown") from exc


def _issuer(entry: Mapping[str, Any], accounts: Mapping[str, str]) -> TrustedIssuer:
    keys = {"keys": list(entry.get("keys", []))}
    return TrustedIssuer(
        issuer=str(entry["issuer"]),
        jwks=PublishedKeys(str(entry["jwks_uri"])) if "jwks_uri" in entry else lambda: keys,
        accounts=accounts,
        audiences=tuple(str(audience) for audience in entry.get("audiences", [])),
        id_jags=bool(entry.get("id_jags", False)),
    )


class PublishedKeys:
    """The JWK set at a loopback `uri`, kept for half a minute. Raises OSError when it cannot be fetched."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        if parts.scheme != "http" or parts.hostname is None:
            raise SystemExit("jwks_uri must be a plain http address of the local stack")
        self._host, self._port, self._path = parts.hostname, parts.port or 80, parts.path
        self._keys: Mapping[str, Any] = {}
        self._good_until = 0.0

    def __call__(self) -> Mapping[str, Any]:
        if time.monotonic() >= self._good_until:
            self._keys = self._fetch()
            self._good_until = time.monotonic() + _KEYS_LIFE_S
        return self._keys

    def _fetch(self) -> Mapping[str, Any]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", self._path)
            answer = connection.getresponse()
            content = json.loads(answer.read(_MAX_DOCUMENT_BYTES))
            if answer.status != 200 or not isinstance(content, dict):
                raise OSError("the issuer's keys are not there")
        except (http.client.HTTPException, ValueError) as exc:
            raise OSError("the issuer's keys cannot be read") from exc
        finally:
            connection.close()
        return content

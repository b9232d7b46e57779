"""Tokens of the account that a function runs as, from the metadata server of Google's platform.

google-auth gets the same, but imports two HTTP libraries for it: a fifth of the CPU of a cold start. So it is used only
where there is no metadata server.
"""

from __future__ import annotations

import http.client
import json
import os
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError

_ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"
_FLAVOR = {"Metadata-Flavor": "Google"}
_TIMEOUT_S = 2.0
_MAX_BYTES = 65_536


def is_here() -> bool:
    """Whether this process is what the metadata server says it is: on Cloud Run, or told of one, and of no other identity."""
    if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ:
        return False
    return "K_SERVICE" in os.environ or "GCE_METADATA_HOST" in os.environ


def identity_token(audience: str) -> str:
    """An ID token for `audience`. Blocking, at most 2 s. Raises: RefreshError."""
    return _get(f"/identity?audience={quote(audience, safe='')}&format=full")


class MetadataCredentials(Credentials):
    """Access tokens. What the account may do with them is decided by IAM alone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def refresh(self, _: object) -> None:
        """Blocking, at most 2 s. Raises: RefreshError."""
        try:
            answer = json.loads(_get("/token"))
            self.token = str(answer["access_token"])
            lifetime = timedelta(seconds=int(answer["expires_in"]))
        except (ValueError, KeyError, TypeError):
            raise RefreshError("the metadata server's answer is no token") from None
        self.expiry = (datetime.now(UTC) + lifetime).replace(tzinfo=None)  # google-auth wants UTC without a zone


def _get(path: str) -> str:
    connection = http.client.HTTPConnection(
        os.environ.get("GCE_METADATA_HOST", "metadata.google.internal"), timeout=_TIMEOUT_S
    )
    try:
        connection.request("GET", _ACCOUNT + path, headers=_FLAVOR)
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES)
    except (OSError, http.client.HTTPException):
        raise RefreshError("the metadata server does not answer") from None
    finally:
        connection.close()
    # The header tells that it is the metadata server and not another that answers for its name.
    if answer.status != http.HTTPStatus.OK or answer.headers.get("Metadata-Flavor") != "Google":
        raise RefreshError("the metadata server refuses")
    return body.decode("utf-8", errors="replace").strip()

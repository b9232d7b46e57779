"""OAuth clients of a double, read from a JSON file that names where each secret is kept.

    {"clients": [{"client_id": "cab", "name": "Acme assistant", "client_secret_file": "/run/cab.secret",
                  "redirect_uris": ["http://127.0.0.1:8080/connect/callback/crm"]}]}

A secret comes from `client_secret_file` or `client_secret_env`; a client without one is public. A file may hold several, one a
line, and is read again each time: all of them are accepted, as at providers while a secret is rotated. A redirect URI may be
`http://127.0.0.1:*/path`: any port of that loopback address (RFC 8252 section 7.3). Everything else matches exactly.
"""

import hmac
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request

from cab_dev.doubles.service import read_json_file
from cab_dev.doubles.strict_input import BadRequest, basic_credentials


@dataclass(frozen=True, kw_only=True)
class RegisteredClient:
    """A registered client. `client_secret` None means public: PKCE alone proves who redeems a code.

    `client_id_at`: under which id each foreign authorization server, named by its issuer, knows this client.
    """

    client_id: str
    redirect_uris: tuple[str, ...]
    client_secret: str | None = None
    client_secret_file: Path | None = None
    name: str = ""
    client_id_at: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"RegisteredClient({self.client_id!r})"

    @property
    def display_name(self) -> str:
        return self.name or self.client_id

    def allows_redirect(self, redirect_uri: str) -> bool:
        """Exact match, or the registered loopback URI with any port."""
        return any(_redirect_matches(registered, redirect_uri) for registered in self.redirect_uris)

    def secret_is(self, presented: str) -> bool:
        """Constant-time comparison; False for a public client."""
        if self.client_secret is None:
            return False
        accepted = [self.client_secret]
        if self.client_secret_file is not None:
            accepted = self.client_secret_file.read_text("utf-8").split()
        return any(hmac.compare_digest(one.encode(), presented.encode()) for one in accepted)


def _redirect_matches(registered: str, redirect_uri: str) -> bool:
    marker = "http://127.0.0.1:*"
    if not registered.startswith(marker + "/"):
        return redirect_uri == registered
    found = re.fullmatch(r"http://127\.0\.0\.1:([0-9]{1,5})(/.*)", redirect_uri)
    return found is not None and found[2] == registered.removeprefix(marker) and 0 < int(found[1]) < 65536


def load_clients(path: str | Path | None) -> dict[str, RegisteredClient]:
    """The clients of a file by id; none when `path` is None. Ends the process on a file that makes no sense."""
    if path is None:
        return {}
    entries = read_json_file(path)
    if not isinstance(entries, dict) or not isinstance(entries.get("clients"), list):
        raise SystemExit(f'{path}: expected an object with a list "clients"')
    clients = [_client(entry, path) for entry in entries["clients"]]
    return {client.client_id: client for client in clients}


def _client(entry: Any, path: str | Path) -> RegisteredClient:
    try:
        return RegisteredClient(
            client_id=str(entry["client_id"]),
            redirect_uris=tuple(str(uri) for uri in entry["redirect_uris"]),
            client_secret=_secret(entry),
            client_secret_file=Path(entry["client_secret_file"]) if "client_secret_file" in entry else None,
            name=str(entry.get("name", "")),
            client_id_at={str(issuer): str(known_as) for issuer, known_as in entry.get("client_id_at", {}).items()},
        )
    except (KeyError, TypeError, AttributeError, OSError) as exc:
        raise SystemExit(f"{path}: a client entry is incomplete or its secret is unreadable") from exc


def _secret(entry: Mapping[str, Any]) -> str | None:
    if "client_secret_file" in entry:
        return Path(entry["client_secret_file"]).read_text("utf-8").strip()
    if "client_secret_env" in entry:
        return os.environ[entry["client_secret_env"]]
    return None


def authenticate_client(
    request: Request, form: Mapping[str, str], clients: Mapping[str, RegisteredClient], *, realm: str
) -> RegisteredClient:
    """The client of a token-endpoint request: `client_secret_basic`, `client_secret_post`, or public by `client_id`.

    Raises BadRequest: `invalid_client` (401), also for two methods at once. RFC 6749 section 2.3.
    """
    refused = BadRequest(
        "invalid_client",
        "Client authentication failed.",
        status=401,
        headers={"WWW-Authenticate": f'Basic realm="{realm}"'},
    )
    client_id, secrets = _presented(request, form, refused)
    client = clients.get(client_id)
    if client is None or len(secrets) > 1:
        raise refused
    if client.client_secret is None:
        if secrets:
            raise refused
        return client
    if not secrets or not client.secret_is(secrets[0]):
        raise refused
    return client


def _presented(request: Request, form: Mapping[str, str], refused: BadRequest) -> tuple[str, Sequence[str]]:
    posted = [form["client_secret"]] if "client_secret" in form else []
    if "authorization" not in request.headers:
        return form.get("client_id", ""), posted
    basic = basic_credentials(request)
    if basic is None or form.get("client_id", basic[0]) != basic[0]:
        raise refused
    return basic[0], [basic[1], *posted]

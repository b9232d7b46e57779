"""Acme's services in this process, and clients of theirs."""

from functools import cache
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import rsa
from examples.acme.services.crm import SCOPES as CRM_SCOPES
from examples.acme.services.crm import create_crm
from examples.acme.services.idp import create_idp
from examples.acme.services.tracker import SCOPES as TRACKER_SCOPES
from examples.acme.services.tracker import create_tracker
from starlette.applications import Starlette
from tests.dev.doubles.in_process import Client

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.oauth_provider import s256

IDP = "http://127.0.0.1:8081"
CRM = "http://127.0.0.1:8082"
TRACKER = "http://127.0.0.1:8083"
BROKER = "http://127.0.0.1:8080"
VERIFIER = "v" * 43
SECRET = "s3cret-of-cab"

IDP_CLIENTS = {
    client.client_id: client
    for client in (
        RegisteredClient(client_id="acme-web", redirect_uris=("http://127.0.0.1:*/cb",), name="Acme Web"),
        RegisteredClient(client_id="cab", client_secret=SECRET, redirect_uris=(f"{BROKER}/login/callback",)),
    )
}


def provider_clients(connection: str) -> dict[str, RegisteredClient]:
    callback = f"{BROKER}/connect/callback/{connection}"
    return {
        "cab": RegisteredClient(client_id="cab", client_secret=SECRET, redirect_uris=(callback,), name="Acme assistant")
    }


def fixed_clock() -> MovableClock:
    return MovableClock(lambda: 1_800_000_000.0)


@cache
def _two_keys() -> tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey]:
    return rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)


def fresh_idp(clock: MovableClock, *, clients: Any = IDP_CLIENTS, **arguments: Any) -> Starlette:
    """An identity provider. All in this process begin with the same two keys: making some takes longer than a test."""
    with patch.object(rsa, "generate_private_key", side_effect=_two_keys()):
        return create_idp(issuer=IDP, clients=clients, clock=clock, **arguments)


class ApiUnderTest:
    """The CRM or the tracker, with an access token per user obtained through the real flow."""

    def __init__(self, connection: str) -> None:
        self.origin = {"crm": CRM, "tracker": TRACKER}[connection]
        self._callback = f"{BROKER}/connect/callback/{connection}"
        self.all_scopes = tuple({"crm": CRM_SCOPES, "tracker": TRACKER_SCOPES}[connection])
        create = {"crm": create_crm, "tracker": create_tracker}[connection]
        self.clock = fixed_clock()
        app = create(issuer=self.origin, clients=provider_clients(connection), clock=self.clock)
        self.http = Client(app, self.origin)

    def token(self, user: str, *scopes: str) -> str:
        """An access token of `user`; with all scopes when none is named."""
        query = {
            "response_type": "code",
            "client_id": "cab",
            "redirect_uri": self._callback,
            "scope": " ".join(scopes or self.all_scopes),
            "code_challenge": s256(VERIFIER),
            "code_challenge_method": "S256",
        }
        page = self.http.get("/oauth/authorize", params=query).text
        request_id = page.partition('name="request" value="')[2].partition('"')[0]
        back = self.http.post("/oauth/consent", data={"request": request_id, "account": user})
        code = back.headers["location"].partition("code=")[2].partition("&")[0]
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "code_verifier": VERIFIER,
        }
        return str(self.http.post("/oauth/token", data=form, auth=("cab", SECRET)).json()["access_token"])

    def call(self, method: str, path: str, token: str, **arguments: Any) -> Any:
        headers = {"Authorization": f"Bearer {token}", **arguments.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **arguments)


def idp_client(clock: MovableClock | None = None, **arguments: Any) -> Any:
    """A client of a fresh identity provider."""
    return Client(fresh_idp(clock or fixed_clock(), **arguments), IDP)

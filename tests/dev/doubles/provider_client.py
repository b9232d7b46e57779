"""A confidential OAuth client that talks to a provider double in this process, as a broker would."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.dev.doubles.in_process import Client

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.oauth_provider import ProviderProfile, create_provider_app, s256

ISSUER = "http://127.0.0.1:9000"
CALLBACK = "http://127.0.0.1:8080/connect/callback/double"
SECRET = "s3cret-of-cab"
VERIFIER = "v" * 43
CLIENTS = (
    RegisteredClient(client_id="cab", client_secret=SECRET, redirect_uris=(CALLBACK,), name="Acme assistant"),
    RegisteredClient(client_id="other", client_secret="other-secret", redirect_uris=(CALLBACK,)),
)


class ProviderUnderTest:
    """One provider double with a clock that only moves when told to."""

    def __init__(
        self, profile: str | ProviderProfile, *, database: str = ":memory:", trusted_issuers: Any = ()
    ) -> None:
        self.clock = MovableClock(lambda: 1_800_000_000.0)
        app, self.provider = create_provider_app(
            profile,
            issuer=ISSUER,
            clients=CLIENTS,
            clock=self.clock,
            database=database,
            trusted_issuers=trusted_issuers,
        )
        self.http: Client = Client(app, ISSUER)

    @property
    def book(self) -> Any:
        return self.provider.book

    def authorize_query(self, **changes: str | None) -> dict[str, str]:
        query = {
            "response_type": "code",
            "client_id": "cab",
            "redirect_uri": CALLBACK,
            "scope": "read write offline_access refresh_token",
            "state": "st-1",
            "code_challenge": s256(VERIFIER),
            "code_challenge_method": "S256",
        }
        return {name: value for name, value in {**query, **changes}.items() if value is not None}

    def request_id_of(self, page_text: str) -> str:
        return page_text.partition('name="request" value="')[2].partition('"')[0]

    def consent(self, *, account: str = "alice", **changes: str | None) -> dict[str, str]:
        """Parameters of the redirect back to the client after the user agreed."""
        page = self.http.get("/oauth/authorize", params=self.authorize_query(**changes))
        answer = self.http.post("/oauth/consent", data={"request": self.request_id_of(page.text), "account": account})
        return dict(parse_qsl(urlsplit(answer.headers["location"]).query))

    def token(self, *, client: tuple[str, str] = ("cab", SECRET), **form: Any) -> Any:
        return self.http.post("/oauth/token", data=form, auth=client)

    def redeem(self, code: str, /, **changes: str) -> Any:
        form: dict[str, Any] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
        }
        return self.token(**form | changes)

    def connect(self, **changes: Any) -> dict[str, Any]:
        """The first token answer of a new grant of alice."""
        return dict(self.redeem(self.consent(**changes)["code"]).json())

    def refresh(self, refresh_token: str, **extra: Any) -> Any:
        return self.token(grant_type="refresh_token", refresh_token=refresh_token, **extra)

    def works(self, access_token: str) -> bool:
        """True when the userinfo endpoint accepts the access token."""
        answer = self.http.get("/oauth/userinfo", headers={"Authorization": f"Bearer {access_token}"})
        return bool(answer.status_code == 200)

    def set_fault(self, **fault: Any) -> None:
        assert self.http.post("/_control/faults", json=fault).status_code == 200

    def ledger(self) -> dict[str, Any]:
        return dict(self.http.get("/_control/ledger").json())

"""The provider double as a whole: its routes, the bearer check for the API beside it, and a stand-alone application.

RFC 6749, 7636 (S256 required), 7009, 8414, 9207; bearer errors as in RFC 6750 section 3.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.control import control_routes
from cab_dev.doubles.faults import FaultBoard
from cab_dev.doubles.oauth_provider.consent import ConsentPages
from cab_dev.doubles.oauth_provider.ledger_routes import ledger_routes
from cab_dev.doubles.oauth_provider.profiles import PROFILES, ProviderProfile, RevocationRadius
from cab_dev.doubles.oauth_provider.settings import Account, ProviderSettings
from cab_dev.doubles.oauth_provider.token_book import AcceptedToken, TokenBook
from cab_dev.doubles.oauth_provider.token_endpoint import TokenEndpoint
from cab_dev.doubles.oauth_provider.trusted_assertions import ID_JAG_PROFILE, JWT_BEARER, TOKEN_EXCHANGE, TrustedIssuer
from cab_dev.doubles.service import Handler, create_app
from cab_dev.doubles.strict_input import BadRequest

ENDPOINTS = ("token", "revoke", "userinfo", "authorize", "discovery", "api")


class OAuthProvider:
    """One provider. `routes()` go into the service's application; `require()` guards the service's API."""

    def __init__(self, settings: ProviderSettings) -> None:
        self.settings = settings
        self.clock = settings.clock
        self.book = TokenBook(settings.profile, self.clock, database=settings.database)
        self.faults = FaultBoard(ENDPOINTS)
        self._consent = ConsentPages(settings, self.book)
        self._tokens = TokenEndpoint(settings, self.book, self.faults)
        self._accounts = {account.account_id: account for account in settings.accounts}

    def routes(self) -> list[Route]:
        found = [
            Route("/.well-known/oauth-authorization-server", self._guarded("discovery", self._discovery)),
            Route("/oauth/authorize", self._guarded("authorize", self._consent.authorize), methods=["GET"]),
            Route("/oauth/consent", self._consent.decide, methods=["POST"]),
            Route("/oauth/token", self._tokens.token, methods=["POST"]),
            Route("/oauth/userinfo", self._guarded("userinfo", self._userinfo), methods=["GET"]),
            *ledger_routes(self.settings, self.book, self._reset),
            *control_routes(self.faults, self.clock),
        ]
        if self.settings.resource is not None:
            found.append(Route(urlsplit(self._metadata_of_resource()).path, self._resource_metadata))
        if self.settings.profile.revocation is not RevocationRadius.NONE:
            found.append(Route("/oauth/revoke", self._guarded("revoke", self._tokens.revoke), methods=["POST"]))
        return found

    def _reset(self) -> None:
        self.faults.clear()
        self.book.reset()
        self._consent.forget_browsers()

    def require(self, request: Request, scope: str) -> AcceptedToken:
        """The live access token of the request, holding `scope`. Raises BadRequest in RFC 6750 shape (401, 403)."""
        token = self.bearer(request)
        if scope not in token.scopes:
            raise BadRequest(
                "insufficient_scope",
                "The access token does not carry the scope this call needs.",
                status=403,
                headers={
                    "WWW-Authenticate": f'Bearer realm="{self.settings.brand}", error="insufficient_scope", '
                    f'scope="{scope}"'
                },
            )
        return token

    def guarded_api(self, handler: Handler) -> Handler:
        """`handler` under the fault switches of the endpoint `api`."""
        return self._guarded("api", handler)

    def account(self, account_id: str) -> Account:
        return self._accounts[account_id]

    def bearer(self, request: Request) -> AcceptedToken:
        """The live access token of the request, whatever its scopes. Raises BadRequest in RFC 6750 shape (401)."""
        realm = f'Bearer realm="{self.settings.brand}"'
        if self.settings.resource is not None:  # RFC 9728 section 5.1
            realm += f', resource_metadata="{self._metadata_of_resource()}"'
        values = request.headers.getlist("authorization")
        if not values:
            raise BadRequest(
                "invalid_token", "An access token is needed.", status=401, headers={"WWW-Authenticate": realm}
            )
        scheme, _, token = values[0].partition(" ")
        accepted = self.book.accept(token) if len(values) == 1 and scheme.lower() == "bearer" else None
        if accepted is None or accepted.account not in self._accounts:
            raise BadRequest(
                "invalid_token",
                "The access token is unknown, expired or revoked.",
                status=401,
                headers={"WWW-Authenticate": f'{realm}, error="invalid_token"'},
            )
        return accepted

    def _guarded(self, endpoint: str, handler: Handler) -> Handler:
        async def with_faults(request: Request) -> Response:
            async def work() -> Response:
                try:
                    return await handler(request)
                except BadRequest as exc:
                    return exc.response()

            return await self.faults.around(self.faults.take(endpoint), request, work)

        return with_faults

    def _metadata_of_resource(self) -> str:
        """RFC 9728 section 3.1."""
        parts = urlsplit(self.settings.resource or self.settings.issuer)
        return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path.rstrip('/')}"

    async def _resource_metadata(self, _: Request) -> Response:
        return JSONResponse(
            {
                "resource": self.settings.resource,
                "authorization_servers": [self.settings.issuer],
                "scopes_supported": list(self.settings.scopes),
                "bearer_methods_supported": ["header"],
            }
        )

    async def _discovery(self, _: Request) -> Response:
        issuer = self.settings.issuer
        document: dict[str, Any] = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/oauth/authorize",
            "token_endpoint": f"{issuer}/oauth/token",
            "userinfo_endpoint": f"{issuer}/oauth/userinfo",
            "scopes_supported": list(self.settings.all_scopes),
            "response_types_supported": ["code"],
            "grant_types_supported": [
                "authorization_code",
                "refresh_token",
                *([JWT_BEARER, TOKEN_EXCHANGE] if self.settings.trusted_issuers else []),
            ],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        if any(trusted.id_jags for trusted in self.settings.trusted_issuers):
            document["authorization_grant_profiles_supported"] = [ID_JAG_PROFILE]
        if self.settings.profile.revocation is not RevocationRadius.NONE:
            document["revocation_endpoint"] = f"{issuer}/oauth/revoke"
        return JSONResponse(document)

    async def _userinfo(self, request: Request) -> Response:
        account = self._accounts[self.bearer(request).account]
        return JSONResponse(
            {
                "sub": account.account_id,
                "preferred_username": account.login,
                "name": account.name,
                "email": account.email,
            }
        )


def create_provider_app(
    profile: str | ProviderProfile,
    *,
    issuer: str,
    clients: Iterable[RegisteredClient],
    clock: MovableClock | None = None,
    database: str = ":memory:",
    trusted_issuers: tuple[TrustedIssuer, ...] = (),
    consented_scopes: frozenset[str] | None = None,
) -> tuple[Starlette, OAuthProvider]:
    """A provider alone, with users alice and bob and scopes `read`, `write`, `offline_access`, `refresh_token`."""
    settings = ProviderSettings(
        issuer=issuer,
        brand="Double",
        accent="#3f51b5",
        cookie="double_session",
        profile=PROFILES[profile] if isinstance(profile, str) else profile,
        clients={client.client_id: client for client in clients},
        accounts=(
            Account(login="alice", account_id="double-1001", name="Alice", email="alice@acme.example"),
            Account(login="bob", account_id="double-1002", name="Bob", email="bob@acme.example"),
        ),
        scopes={
            "read": "Read your records",
            "write": "Change your records",
            "offline_access": "Keep access while you are away",
            "refresh_token": "Keep access while you are away",
        },
        database=database,
        clock=clock or MovableClock(),
        trusted_issuers=trusted_issuers,
        consented_scopes=consented_scopes,
    )
    provider = OAuthProvider(settings)
    return create_app(provider.routes(), origin=issuer), provider

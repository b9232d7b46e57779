"""The HTTP side of the provider twin: discovery, consent page, token, revocation, userinfo, control endpoints.

RFC 6749, 7636 (S256 required), 7009, 8414, 9207; bearer errors as in RFC 6750 section 3.
"""

import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_dev.twins.authorization_answer import RefusedToClient, back_to_client
from cab_dev.twins.browser_requests import WaitingRequests, browser_of, new_browser, set_browser_cookie
from cab_dev.twins.clients import TwinClient, authenticate_client
from cab_dev.twins.clock import MovableClock
from cab_dev.twins.control import control_routes
from cab_dev.twins.faults import LARGE_BODY_BYTES, Fault, FaultBoard
from cab_dev.twins.oauth_provider.profiles import PROFILES, ProviderProfile, RevocationRadius
from cab_dev.twins.oauth_provider.token_book import (
    WIDENED_SCOPE,
    AcceptedToken,
    GrantRefused,
    IssuedTokens,
    ScopeRefused,
    TokenBook,
)
from cab_dev.twins.oauth_provider.trusted_assertions import (
    ACCESS_TOKEN_TYPE,
    JWT_BEARER,
    JWT_TYPES,
    TOKEN_EXCHANGE,
    AssertionRefused,
    TrustedAssertions,
    TrustedIssuer,
)
from cab_dev.twins.pages import Pages
from cab_dev.twins.service import Handler, create_app
from cab_dev.twins.strict_input import BadRequest, read_form, read_json_object, read_query

ENDPOINTS = ("token", "revoke", "userinfo", "authorize", "discovery", "api")


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user's account at this provider. `account_id` is the provider's own name for the person."""

    login: str
    account_id: str
    name: str
    email: str


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """What makes one provider: `issuer` is its origin; `scopes` maps each scope to words for the consent page."""

    issuer: str
    brand: str
    accent: str
    cookie: str
    profile: ProviderProfile
    clients: Mapping[str, TwinClient]
    accounts: tuple[Account, ...]
    scopes: Mapping[str, str]
    database: str = ":memory:"
    clock: MovableClock = field(default_factory=MovableClock)
    trusted_issuers: tuple[TrustedIssuer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _ConsentRequest:
    client: TwinClient
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str
    state: str | None


class OAuthProvider:
    """One provider. `routes()` go into the service's application; `require()` guards the service's API."""

    def __init__(self, settings: ProviderSettings) -> None:
        self.settings = settings
        self.clock = settings.clock
        self.book = TokenBook(settings.profile, self.clock, database=settings.database)
        self.faults = FaultBoard(ENDPOINTS)
        self._pages = Pages(settings.brand, settings.accent)
        self._waiting: WaitingRequests[_ConsentRequest] = WaitingRequests(self.clock)
        self._signed_in: dict[str, str] = {}  # browser id -> account id
        self._accounts = {account.account_id: account for account in settings.accounts}
        self._secure = settings.issuer.startswith("https:")
        self._separator = settings.profile.scope_separator
        self._assertions = TrustedAssertions(
            settings.trusted_issuers,
            audience=(settings.issuer, f"{settings.issuer}/oauth/token"),
            clock=self.clock,
        )

    def routes(self) -> list[Route]:
        found = [
            Route("/.well-known/oauth-authorization-server", self._guarded("discovery", self._discovery)),
            Route("/oauth/authorize", self._guarded("authorize", self._authorize), methods=["GET"]),
            Route("/oauth/consent", self._decide, methods=["POST"]),
            Route("/oauth/token", self._token, methods=["POST"]),
            Route("/oauth/userinfo", self._guarded("userinfo", self._userinfo), methods=["GET"]),
            Route("/_control/ledger", self._control_ledger, methods=["GET"]),
            Route("/_control/tokens/{sha256}", self._control_token, methods=["GET"]),
            Route("/_control/withdraw", self._control_withdraw, methods=["POST"]),
            Route("/_control/reset", self._control_reset, methods=["POST"]),
            *control_routes(self.faults, self.clock),
        ]
        if self.settings.profile.revocation is not RevocationRadius.NONE:
            found.append(Route("/oauth/revoke", self._guarded("revoke", self._revoke), methods=["POST"]))
        return found

    # --- for the API beside us ----------------------------------------------------------------------------------------

    def require(self, request: Request, scope: str) -> AcceptedToken:
        """The live access token of the request, holding `scope`. Raises BadRequest in RFC 6750 shape (401, 403)."""
        token = self._bearer(request)
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

    def _bearer(self, request: Request) -> AcceptedToken:
        realm = f'Bearer realm="{self.settings.brand}"'
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

    # --- discovery and the user's decision ----------------------------------------------------------------------------

    async def _discovery(self, _: Request) -> Response:
        issuer = self.settings.issuer
        document: dict[str, Any] = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/oauth/authorize",
            "token_endpoint": f"{issuer}/oauth/token",
            "userinfo_endpoint": f"{issuer}/oauth/userinfo",
            "scopes_supported": list(self.settings.scopes),
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
        if self.settings.profile.revocation is not RevocationRadius.NONE:
            document["revocation_endpoint"] = f"{issuer}/oauth/revoke"
        return JSONResponse(document)

    async def _authorize(self, request: Request) -> Response:
        try:
            query = read_query(request)
        except BadRequest as exc:
            return self._pages.problem(exc.description)
        client = self.settings.clients.get(query.get("client_id", ""))
        redirect_uri = query.get("redirect_uri", "")
        if client is None or not client.allows_redirect(redirect_uri):
            return self._pages.problem("The application that sent you here is not registered for this address.")
        try:
            scopes = self._requested_scopes(query)
        except RefusedToClient as exc:
            return self._back(redirect_uri, query.get("state"), {"error": exc.error})
        asked = _ConsentRequest(
            client=client,
            redirect_uri=redirect_uri,
            scopes=scopes,
            challenge=query["code_challenge"],
            state=query.get("state"),
        )
        browser = browser_of(request, self.settings.cookie) or new_browser()
        known = self._accounts.get(self._signed_in.get(browser, ""))
        page = self._consent_page(asked, self._waiting.leave(asked, browser=browser), known)
        set_browser_cookie(page, self.settings.cookie, browser, secure=self._secure)
        return page

    def _requested_scopes(self, query: Mapping[str, str]) -> tuple[str, ...]:
        if query.get("response_type") != "code":
            raise RefusedToClient("unsupported_response_type")
        challenge = query.get("code_challenge", "")
        if query.get("code_challenge_method") != "S256" or len(challenge) != 43:
            raise RefusedToClient("invalid_request")
        if query.get("prompt") == "none":
            raise RefusedToClient("interaction_required")
        scopes = tuple(dict.fromkeys(self._split(query.get("scope", ""))))
        if not scopes or not set(scopes) <= set(self.settings.scopes):
            raise RefusedToClient("invalid_scope")
        return scopes

    def _split(self, scope: str) -> list[str]:
        return [part for part in scope.split(self._separator) if part]

    def _consent_page(self, asked: _ConsentRequest, request_id: str, known: Account | None) -> Response:
        words = "".join(
            f"<li>{html.escape(self.settings.scopes[scope])}<br><code>{html.escape(scope)}</code></li>"
            for scope in asked.scopes
        )
        accounts = sorted(self.settings.accounts, key=lambda account: account is not known)
        buttons = "".join(
            f'<button name="account" value="{html.escape(account.login)}"'
            f"{'' if known in (None, account) else ' class=quiet'}>"
            f"Continue as {html.escape(account.name)}</button>"
            for account in accounts
        )
        body = (
            f"<p><strong>{html.escape(asked.client.display_name)}</strong> would like to use your "
            f"{html.escape(self.settings.brand)} account to:</p><ul>{words}</ul>"
            '<p class="soft">You can end this access at any time.</p>'
            '<form method="post" action="/oauth/consent">'
            f'<input type="hidden" name="request" value="{html.escape(request_id)}">{buttons}'
            '<button class="quiet" name="decision" value="deny">Do not allow</button></form>'
        )
        return self._pages.render("Allow access?", body)

    async def _decide(self, request: Request) -> Response:
        try:
            form = await read_form(request)
        except BadRequest as exc:
            return self._pages.problem(exc.description, status=exc.status)
        browser = browser_of(request, self.settings.cookie)
        asked = self._waiting.take(form.get("request", ""), browser=browser)
        if asked is None or browser is None:
            return self._pages.problem(
                "This page has expired, or it was opened in another browser. Please start again."
            )
        account = next((a for a in self.settings.accounts if a.login == form.get("account")), None)
        if account is None:
            return self._back(asked.redirect_uri, asked.state, {"error": "access_denied"})
        code = self.book.issue_code(
            client_id=asked.client.client_id,
            account=account.account_id,
            redirect_uri=asked.redirect_uri,
            scopes=asked.scopes,
            challenge=asked.challenge,
        )
        answer = self._back(asked.redirect_uri, asked.state, {"code": code})
        fresh = new_browser()  # a signed-in browser never keeps an id that was known before the sign-in
        self._signed_in.pop(browser, None)
        self._signed_in[fresh] = account.account_id
        set_browser_cookie(answer, self.settings.cookie, fresh, secure=self._secure)
        return answer

    def _back(self, redirect_uri: str, state: str | None, answer: Mapping[str, str]) -> Response:
        return back_to_client(redirect_uri, issuer=self.settings.issuer, state=state, answer=answer)

    # --- token, revocation, userinfo ----------------------------------------------------------------------------------

    async def _token(self, request: Request) -> Response:
        form = await read_form(request)
        grant_type = form.get("grant_type", "")
        fault = self.faults.take("token", grant_type=grant_type)
        issued: list[IssuedTokens] = []

        async def work() -> Response:
            try:
                client = authenticate_client(request, form, self.settings.clients, realm=self.settings.brand)
                issued.append(self._issue(grant_type, client, form))
            except GrantRefused:
                profile = self.settings.profile
                return JSONResponse({"error": profile.invalid_grant_error}, status_code=profile.invalid_grant_status)
            except AssertionRefused:  # RFC 7523 says invalid_grant, RFC 8693 section 2.2.2 invalid_request
                error = "invalid_request" if grant_type == TOKEN_EXCHANGE else "invalid_grant"
                return JSONResponse({"error": error}, status_code=400)
            except ScopeRefused:
                return JSONResponse({"error": "invalid_scope"}, status_code=400)
            except BadRequest as exc:
                return exc.response()
            extra = {"issued_token_type": ACCESS_TOKEN_TYPE} if grant_type == TOKEN_EXCHANGE else {}
            return _token_response(issued[0], fault, self._separator, extra)

        answer = await self.faults.around(fault, request, work)
        if issued and fault is not None and fault.after_commit and fault.kind != "slow":
            self.book.note_lost_answer(issued[0])
        return answer

    def _issue(self, grant_type: str, client: TwinClient, form: Mapping[str, str]) -> IssuedTokens:
        if grant_type == "authorization_code":
            _require(form, "code", "redirect_uri", "code_verifier")
            return self.book.redeem_code(
                form["code"],
                client_id=client.client_id,
                redirect_uri=form["redirect_uri"],
                verifier=form["code_verifier"],
            )
        if grant_type == "refresh_token":
            _require(form, "refresh_token")
            scopes = self._split(form["scope"]) if "scope" in form else None
            return self.book.refresh(form["refresh_token"], client_id=client.client_id, scopes=scopes)
        if grant_type in (JWT_BEARER, TOKEN_EXCHANGE) and self.settings.trusted_issuers:
            return self._issue_for_assertion(grant_type, client, form)
        raise BadRequest("unsupported_grant_type", "This grant type is not offered here.")

    def _issue_for_assertion(self, grant_type: str, client: TwinClient, form: Mapping[str, str]) -> IssuedTokens:
        if grant_type == JWT_BEARER:
            _require(form, "assertion")
            account = self._assertions.account(form["assertion"])
        else:
            _require(form, "subject_token", "subject_token_type")
            if form["subject_token_type"] not in JWT_TYPES or "actor_token" in form:
                raise BadRequest("invalid_request", "The subject token must be a JWT, without an actor token.")
            account = self._assertions.account(form["subject_token"])
        scopes = tuple(dict.fromkeys(self._split(form.get("scope", ""))))
        if not scopes or not set(scopes) <= set(self.settings.scopes):
            raise ScopeRefused
        return self.book.grant_directly(client_id=client.client_id, account=account, scopes=scopes)

    async def _revoke(self, request: Request) -> Response:
        form = await read_form(request)
        client = authenticate_client(request, form, self.settings.clients, realm=self.settings.brand)
        _require(form, "token")
        self.book.revoke(form["token"], client_id=client.client_id)
        return Response(status_code=200)

    async def _userinfo(self, request: Request) -> Response:
        account = self._accounts[self._bearer(request).account]
        return JSONResponse(
            {
                "sub": account.account_id,
                "preferred_username": account.login,
                "name": account.name,
                "email": account.email,
            }
        )

    # --- control ------------------------------------------------------------------------------------------------------

    async def _control_ledger(self, request: Request) -> Response:
        query = read_query(request)
        since = query.get("since", "0")
        if not since.isascii() or not since.isdigit() or len(since) > 15:
            raise BadRequest("invalid_request", "since must be a sequence number.")
        entries = self.book.ledger(since=int(since), grant_id=query.get("grant_id"))
        return JSONResponse({"now": self.clock(), "entries": entries, "grants": self.book.grants()})

    async def _control_token(self, request: Request) -> Response:
        state = self.book.token_state(request.path_params["sha256"])
        return JSONResponse(state or {"error": "not_found"}, status_code=200 if state else 404)

    async def _control_withdraw(self, request: Request) -> Response:
        login = (await read_json_object(request)).get("account")
        account = next((a for a in self.settings.accounts if a.login == login), None)
        if account is None:
            raise BadRequest("invalid_request", "account must be a login of this provider.")
        self.book.end_account(account.account_id)
        return JSONResponse({})

    async def _control_reset(self, _: Request) -> Response:
        self.faults.clear()
        self.book.reset()
        self._signed_in.clear()
        return JSONResponse({})


def _require(form: Mapping[str, str], *names: str) -> None:
    if any(not form.get(name) for name in names):
        raise BadRequest("invalid_request", f"Needed: {', '.join(names)}.")


def _token_response(tokens: IssuedTokens, fault: Fault | None, separator: str, extra: Mapping[str, str]) -> Response:
    """The answer of RFC 6749 section 5.1, changed as an `answer` fault wants."""
    answer: dict[str, Any] = {
        "access_token": tokens.access_token,
        "token_type": "Bearer",
        "expires_in": tokens.expires_in,
        "scope": separator.join(tokens.scope),
        **extra,
    }
    if tokens.refresh_token is not None:
        answer["refresh_token"] = tokens.refresh_token
    headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}
    change = fault.answer if fault is not None and fault.kind == "answer" else None
    if change == "no_refresh_token":
        answer.pop("refresh_token", None)
    elif change == "expires_in":
        _replace_or_remove(answer, "expires_in", None if fault is None else fault.value)
    elif change == "extra_scope":
        answer["scope"] += separator + WIDENED_SCOPE
    elif change == "large":
        answer["padding"] = "x" * LARGE_BODY_BYTES
    elif change == "form_encoded":
        return Response(urlencode(answer), headers=headers, media_type="application/x-www-form-urlencoded")
    return Response(json.dumps(answer), headers=headers, media_type="application/json")


def _replace_or_remove(answer: dict[str, Any], member: str, value: Any) -> None:
    if value == "absent":
        del answer[member]
    else:
        answer[member] = value


def create_provider_app(
    profile: str | ProviderProfile,
    *,
    issuer: str,
    clients: Iterable[TwinClient],
    clock: MovableClock | None = None,
    database: str = ":memory:",
    trusted_issuers: tuple[TrustedIssuer, ...] = (),
) -> tuple[Starlette, OAuthProvider]:
    """A provider alone, with users alice and bob and scopes `read`, `write`, `offline_access`, `refresh_token`."""
    settings = ProviderSettings(
        issuer=issuer,
        brand="Twin",
        accent="#3f51b5",
        cookie="twin_session",
        profile=PROFILES[profile] if isinstance(profile, str) else profile,
        clients={client.client_id: client for client in clients},
        accounts=(
            Account(login="alice", account_id="twin-1001", name="Alice", email="alice@acme.example"),
            Account(login="bob", account_id="twin-1002", name="Bob", email="bob@acme.example"),
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
    )
    provider = OAuthProvider(settings)
    return create_app(provider.routes(), origin=issuer), provider

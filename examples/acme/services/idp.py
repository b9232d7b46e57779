"""Acme ID, the demo organisation's OpenID provider: code flow with PKCE, no passwords, faults on request.

    python -m examples.acme.services.idp --port 8081 --clients clients.json [--client-keys DIR]

Also serves the public keys of Acme's OAuth clients at `/clients/{client_id}/jwks.json`, from JWK files in `--client-keys`.
OpenID Connect Core 1.0, Discovery 1.0; RFC 7636, 9207, 9470; ID-JAGs by RFC 8693 (`id_jags`).
"""

import html
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_dev.doubles.authorization_answer import RefusedToClient, back_to_client
from cab_dev.doubles.browser_requests import WaitingRequests, browser_of, new_browser, set_browser_cookie
from cab_dev.doubles.clients import RegisteredClient, authenticate_client, load_clients
from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.control import control_routes
from cab_dev.doubles.faults import Fault, FaultBoard
from cab_dev.doubles.oauth_provider import s256, token_sha256
from cab_dev.doubles.pages import Pages
from cab_dev.doubles.service import Handler, create_app, origin_of, serve, service_arguments
from cab_dev.doubles.strict_input import BadRequest, read_form, read_json_object, read_query
from examples.acme.people import PEOPLE
from examples.acme.services.id_jags import ID_JAG_TOKEN_TYPE, TOKEN_EXCHANGE, id_jag_answer
from examples.acme.services.idp_keys import SigningKeys
from examples.acme.services.idp_sessions import AMR, LoginDemand, LoginSession, LoginSessions

COOKIE = "acme_idp_session"
ID_TOKEN_LIFE_S = 600
CODE_LIFE_S = 60
SCOPES = ("openid", "profile", "email", "groups")
ENDPOINTS = ("jwks", "discovery", "token", "authorize", "client_jwks")
_PUBLIC_JWK_MEMBERS = ("kty", "crv", "x", "y", "n", "e", "use", "alg", "kid", "key_ops")


@dataclass(frozen=True, kw_only=True)
class _AuthorizationRequest:
    client: RegisteredClient
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str
    state: str | None
    nonce: str | None
    demand: LoginDemand


@dataclass(frozen=True, kw_only=True)
class _Code:
    asked: _AuthorizationRequest
    session: LoginSession
    until: float


class IdentityProvider:
    """One issuer with its keys, sessions, codes and fault switches. State is in memory."""

    def __init__(
        self,
        *,
        issuer: str,
        clients: Mapping[str, RegisteredClient],
        client_keys: Path | None,
        clock: MovableClock,
    ) -> None:
        self.issuer = issuer
        self.clock = clock
        self.keys = SigningKeys()
        self.faults = FaultBoard(ENDPOINTS, own_kinds={"unknown_kid", "issuer_mismatch", "claims"})
        self.jwks_fetches = 0
        self.discovery_fetches = 0
        self._clients = clients
        self._client_keys = client_keys
        self._pages = Pages("Acme ID", "#7a2e5d")
        self._sessions = LoginSessions(clock)
        self._waiting: WaitingRequests[_AuthorizationRequest] = WaitingRequests(clock)
        self._codes: dict[str, _Code] = {}
        self._secure = issuer.startswith("https:")

    def routes(self) -> list[Route]:
        return [
            Route("/.well-known/openid-configuration", self._faulty("discovery", self._discovery)),
            Route("/jwks.json", self._jwks),
            Route("/authorize", self._faulty("authorize", self._authorize), methods=["GET"]),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["GET", "POST"]),
            Route("/token", self._token, methods=["POST"]),
            Route("/clients/{client_id}/jwks.json", self._faulty("client_jwks", self._client_jwks)),
            Route("/_control/keys/rotate", self._control_rotate, methods=["POST"]),
            Route("/_control/signal", self._control_signal, methods=["POST"]),
            Route("/_control/state", self._control_state, methods=["GET"]),
            Route("/_control/reset", self._control_reset, methods=["POST"]),
            *control_routes(self.faults, self.clock),
        ]

    def _faulty(self, endpoint: str, handler: Handler) -> Handler:
        async def with_faults(request: Request) -> Response:
            fault = self.faults.take(endpoint)
            request.state.fault = fault

            async def work() -> Response:
                return await handler(request)

            return await self.faults.around(fault, request, work)

        return with_faults

    # --- documents ----------------------------------------------------------------------------------------------------

    async def _discovery(self, request: Request) -> Response:
        self.discovery_fetches += 1
        fault: Fault | None = request.state.fault
        said = self.issuer + "/" if fault is not None and fault.kind == "issuer_mismatch" else self.issuer
        return JSONResponse(
            {
                "issuer": said,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks.json",
                "end_session_endpoint": f"{self.issuer}/logout",
                "scopes_supported": list(SCOPES),
                "response_types_supported": ["code"],
                "response_modes_supported": ["query"],
                "grant_types_supported": ["authorization_code", TOKEN_EXCHANGE],
                "identity_chaining_requested_token_types_supported": [ID_JAG_TOKEN_TYPE],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
                "code_challenge_methods_supported": ["S256"],
                "acr_values_supported": list(AMR),
                "authorization_response_iss_parameter_supported": True,
            },
            headers={"Cache-Control": "public, max-age=300"},
        )

    async def _jwks(self, request: Request) -> Response:
        self.jwks_fetches += 1

        async def work() -> Response:
            return JSONResponse(self.keys.jwks(), headers={"Cache-Control": "public, max-age=300"})

        return await self.faults.around(self.faults.take("jwks"), request, work)

    async def _client_jwks(self, request: Request) -> Response:
        keys = self._public_keys_of(request.path_params["client_id"])
        if not keys:
            return JSONResponse({"error": "not_found"}, status_code=404)
        return JSONResponse({"keys": keys}, headers={"Cache-Control": "public, max-age=60"})

    def _public_keys_of(self, client_id: str) -> list[dict[str, Any]]:
        """The public halves of the client's JWK file, which is read anew each time so that keys can be rotated."""
        if self._client_keys is None or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", client_id):
            return []
        for suffix in (".json", ".jwk", ".jwk.json"):
            path = self._client_keys / (client_id + suffix)
            try:
                document = json.loads(path.read_text("utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                return []
            keys = document.get("keys", [document]) if isinstance(document, dict) else []
            return [
                {name: key[name] for name in _PUBLIC_JWK_MEMBERS if name in key}
                for key in keys
                if isinstance(key, dict) and key.get("kty") in ("EC", "RSA", "OKP")
            ]
        return []

    # --- logging in ---------------------------------------------------------------------------------------------------

    async def _authorize(self, request: Request) -> Response:
        try:
            query = read_query(request)
        except BadRequest as exc:
            return self._pages.problem(exc.description)
        client = self._clients.get(query.get("client_id", ""))
        redirect_uri = query.get("redirect_uri", "")
        if client is None or not client.allows_redirect(redirect_uri):
            return self._pages.problem("The application that sent you here is not registered for this address.")
        browser = browser_of(request, COOKIE)
        session = self._sessions.of(browser)
        try:
            asked = self._parse(client, redirect_uri, query)
        except RefusedToClient as exc:
            return self._back(redirect_uri, query.get("state"), {"error": exc.error})
        if session is not None and asked.demand.is_met_by(session, self.clock()):
            return self._back_with_code(asked, session)
        if asked.demand.prompt == "none":
            return self._back(redirect_uri, asked.state, {"error": "login_required"})
        browser = browser or new_browser()
        page = self._login_page(asked, self._waiting.leave(asked, browser=browser))
        set_browser_cookie(page, COOKIE, browser, secure=self._secure)
        return page

    def _parse(self, client: RegisteredClient, redirect_uri: str, query: Mapping[str, str]) -> _AuthorizationRequest:
        if query.get("response_type") != "code":
            raise RefusedToClient("unsupported_response_type")
        challenge = query.get("code_challenge", "")
        if query.get("code_challenge_method") != "S256" or len(challenge) != 43:
            raise RefusedToClient("invalid_request")
        scopes = tuple(dict.fromkeys(query.get("scope", "").split()))
        if "openid" not in scopes:
            raise RefusedToClient("invalid_scope")
        prompt = query.get("prompt", "")
        max_age = query.get("max_age")
        if prompt not in ("", "none", "login", "select_account", "consent") or (
            max_age is not None and not re.fullmatch(r"[0-9]{1,9}", max_age)
        ):
            raise RefusedToClient("invalid_request")
        return _AuthorizationRequest(
            client=client,
            redirect_uri=redirect_uri,
            scopes=tuple(scope for scope in scopes if scope in SCOPES),
            challenge=challenge,
            state=query.get("state"),
            nonce=query.get("nonce"),
            demand=LoginDemand(
                prompt=prompt,
                max_age=None if max_age is None else int(max_age),
                acr_values=tuple(query.get("acr_values", "").split()),
                login_hint=query.get("login_hint"),
            ),
        )

    def _login_page(self, asked: _AuthorizationRequest, request_id: str) -> Response:
        hint = asked.demand.login_hint
        people = sorted(PEOPLE.values(), key=lambda person: hint not in (person.login, person.email))
        hinted = any(hint in (person.login, person.email) for person in people)
        buttons = "".join(
            f'<button name="account" value="{html.escape(person.login)}"'
            f"{' class=quiet' if hinted and index else ''}>Continue as {html.escape(person.name)}</button>"
            for index, person in enumerate(people)
        )
        strong = "<p>A second factor is asked for; the demo supplies it.</p>" if len(AMR[asked.demand.acr]) > 1 else ""
        body = (
            f"<p>to continue to <strong>{html.escape(asked.client.display_name)}</strong></p>{strong}"
            '<p class="soft">This is a demo organisation: nobody has a password. Choose who you are.</p>'
            '<form method="post" action="/login">'
            f'<input type="hidden" name="request" value="{html.escape(request_id)}">{buttons}'
            '<button class="quiet" name="decision" value="cancel">Cancel</button></form>'
        )
        return self._pages.render("Log in", body)

    async def _login(self, request: Request) -> Response:
        try:
            form = await read_form(request)
        except BadRequest as exc:
            return self._pages.problem(exc.description, status=exc.status)
        browser = browser_of(request, COOKIE)
        asked = self._waiting.take(form.get("request", ""), browser=browser)
        if asked is None:
            return self._pages.problem(
                "This page has expired, or it was opened in another browser. Please start again."
            )
        login = form.get("account", "")
        if login not in PEOPLE:
            return self._back(asked.redirect_uri, asked.state, {"error": "access_denied"})
        self._sessions.end(browser)
        fresh = new_browser()  # a logged-in browser never keeps an id that was known before the login
        answer = self._back_with_code(asked, self._sessions.start(fresh, login, asked.demand.acr))
        set_browser_cookie(answer, COOKIE, fresh, secure=self._secure)
        return answer

    async def _logout(self, request: Request) -> Response:
        if request.method == "GET":
            return self._pages.render(
                "Log out", '<form method="post" action="/logout"><button>Log out of Acme ID</button></form>'
            )
        self._sessions.end(browser_of(request, COOKIE))
        answer = self._pages.render("You are logged out", "<p>You can close this page.</p>")
        answer.delete_cookie(COOKIE, path="/")
        return answer

    def _back_with_code(self, asked: _AuthorizationRequest, session: LoginSession) -> Response:
        code = secrets.token_urlsafe(32)
        now = self.clock()
        self._codes = {digest: kept for digest, kept in self._codes.items() if now < kept.until}
        self._codes[token_sha256(code)] = _Code(asked=asked, session=session, until=now + CODE_LIFE_S)
        return self._back(asked.redirect_uri, asked.state, {"code": code})

    def _back(self, redirect_uri: str, state: str | None, answer: Mapping[str, str]) -> Response:
        return back_to_client(redirect_uri, issuer=self.issuer, state=state, answer=answer)

    # --- ID tokens ----------------------------------------------------------------------------------------------------

    async def _token(self, request: Request) -> Response:
        form = await read_form(request)
        fault = self.faults.take("token")

        async def work() -> Response:
            client = authenticate_client(request, form, self._clients, realm="Acme ID")
            if form.get("grant_type") == TOKEN_EXCHANGE:
                answer = id_jag_answer(form, client, self.keys, issuer=self.issuer, now=self.clock())
                return JSONResponse(answer, headers={"Cache-Control": "no-store"})
            if form.get("grant_type") != "authorization_code":
                raise BadRequest("unsupported_grant_type", "The grant type is not offered here.")
            code = self._redeem(client, form)
            answer = {
                "access_token": secrets.token_urlsafe(32),
                "token_type": "Bearer",
                "expires_in": ID_TOKEN_LIFE_S,
                "scope": " ".join(code.asked.scopes),
                "id_token": self._id_token(code, fault),
            }
            return JSONResponse(answer, headers={"Cache-Control": "no-store"})

        return await self.faults.around(fault, request, work)

    def _redeem(self, client: RegisteredClient, form: Mapping[str, str]) -> _Code:
        code = self._codes.pop(token_sha256(form.get("code", "")), None)
        if (
            code is None
            or self.clock() >= code.until
            or code.asked.client.client_id != client.client_id
            or code.asked.redirect_uri != form.get("redirect_uri")
            or s256(form.get("code_verifier", "")) != code.asked.challenge
        ):
            raise BadRequest("invalid_grant", "The code is unknown, used, expired or not yours.")
        return code

    def _id_token(self, code: _Code, fault: Fault | None) -> str:
        now = int(self.clock())
        session, person = code.session, code.session.person
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": person.subject,
            "aud": code.asked.client.client_id,
            "azp": code.asked.client.client_id,
            "iat": now,
            "exp": now + ID_TOKEN_LIFE_S,
            "auth_time": int(session.auth_time),
            "acr": session.acr,
            "amr": AMR[session.acr],
            "sid": session.sid,
            "email": person.email,
            "email_verified": True,
            "name": person.name,
            "preferred_username": person.login,
            "groups": list(person.groups),
        }
        if code.asked.nonce is not None:
            claims["nonce"] = code.asked.nonce
        if fault is not None and fault.kind == "claims" and isinstance(fault.value, dict):
            claims |= fault.value
            claims = {name: value for name, value in claims.items() if value is not None}
        return self.keys.sign(claims, unpublished_key=fault is not None and fault.kind == "unknown_kid")

    # --- control ------------------------------------------------------------------------------------------------------

    async def _control_rotate(self, request: Request) -> Response:
        document = await read_json_object(request)
        self.keys.rotate(forget_old=document.get("forget_old") is True)
        return JSONResponse({"signing_kid": self.keys.signing_kid})

    async def _control_signal(self, request: Request) -> Response:
        """A security event token (RFC 8417), signed, for the caller to push: of `user`, the event `event` (its URI), for `audience`."""
        document = await read_json_object(request)
        person = PEOPLE.get(str(document.get("user")))
        if person is None:
            raise BadRequest("invalid_request", "There is nobody called so.")
        claims = {
            "iss": self.issuer,
            "aud": document.get("audience"),
            "iat": int(self.clock()),
            "jti": secrets.token_urlsafe(16),
            "sub_id": {"format": "iss_sub", "iss": self.issuer, "sub": person.subject},
            "events": {str(document.get("event")): {"event_timestamp": int(self.clock())}},
        }
        return JSONResponse({"set": self.keys.sign(claims, typ="secevent+jwt")})

    async def _control_state(self, _: Request) -> Response:
        return JSONResponse(
            {
                "now": self.clock(),
                "signing_kid": self.keys.signing_kid,
                "jwks_fetches": self.jwks_fetches,
                "discovery_fetches": self.discovery_fetches,
            }
        )

    async def _control_reset(self, _: Request) -> Response:
        self.faults.clear()
        self._sessions.clear()
        self._codes.clear()
        self.jwks_fetches = self.discovery_fetches = 0
        return JSONResponse({})


def create_idp(
    *,
    issuer: str,
    clients: Mapping[str, RegisteredClient],
    client_keys: Path | None = None,
    clock: MovableClock | None = None,
) -> Starlette:
    """The identity provider as an application. `issuer` is its own origin, byte for byte the `iss` of its tokens."""
    provider = IdentityProvider(issuer=issuer, clients=clients, client_keys=client_keys, clock=clock or MovableClock())
    return create_app(provider.routes(), origin=issuer)


def main() -> None:
    parser = service_arguments("idp", default_port=8081)
    parser.add_argument("--clients", default=os.environ.get("ACME_IDP_CLIENTS"), help="JSON file of OIDC clients")
    parser.add_argument(
        "--client-keys", default=os.environ.get("ACME_IDP_CLIENT_KEYS"), help="folder of JWK files, CLIENT_ID.json"
    )
    arguments = parser.parse_args()
    app = create_idp(
        issuer=origin_of(arguments),
        clients=load_clients(arguments.clients),
        client_keys=Path(arguments.client_keys) if arguments.client_keys else None,
    )
    serve(app, port=arguments.port)


if __name__ == "__main__":
    main()

"""The client's side of the provider double: token and revocation endpoints. RFC 6749, 7009, 7523, 8693."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cab_dev.doubles.clients import RegisteredClient, authenticate_client
from cab_dev.doubles.faults import LARGE_BODY_BYTES, Fault, FaultBoard
from cab_dev.doubles.oauth_provider.exchanged_tokens import ExchangedTokens
from cab_dev.doubles.oauth_provider.settings import ProviderSettings
from cab_dev.doubles.oauth_provider.token_book import WIDENED_SCOPE, GrantRefused, IssuedTokens, ScopeRefused, TokenBook
from cab_dev.doubles.oauth_provider.trusted_assertions import (
    ACCESS_TOKEN_TYPE,
    JWT_BEARER,
    JWT_TYPES,
    TOKEN_EXCHANGE,
    AssertionRefused,
    TrustedAssertions,
    Voucher,
)
from cab_dev.doubles.strict_input import BadRequest, read_form

_NO_CLIENT = RegisteredClient(client_id="", redirect_uris=())


class TokenEndpoint:
    """Issues, refreshes and revokes for clients that prove who they are."""

    def __init__(self, settings: ProviderSettings, book: TokenBook, faults: FaultBoard) -> None:
        self._settings = settings
        self._book = book
        self._faults = faults
        self._exchanged = ExchangedTokens(settings, book)
        self._assertions = TrustedAssertions(
            settings.trusted_issuers,
            issuer=settings.issuer,
            token_endpoint=f"{settings.issuer}/oauth/token",
            clock=settings.clock,
        )

    async def token(self, request: Request) -> Response:
        """`POST /oauth/token`, under the faults of the endpoint `token`."""
        form = await read_form(request)
        grant_type = form.get("grant_type", "")
        fault = self._faults.take("token", grant_type=grant_type)
        issued: list[IssuedTokens] = []

        async def work() -> Response:
            try:
                if not self._settings.is_for_us(form.get("resource")):
                    raise BadRequest("invalid_target", "Tokens are for the resource that this server protects.")
                if self._exchanged.answers(form):
                    issued.append(self._exchanged.issue(request, form))
                else:
                    client = self._client(request, form, grant_type)
                    issued.append(self._issue(grant_type, client, form))
            except GrantRefused:
                profile = self._settings.profile
                return JSONResponse({"error": profile.invalid_grant_error}, status_code=profile.invalid_grant_status)
            except AssertionRefused:  # RFC 7523 says invalid_grant, RFC 8693 section 2.2.2 invalid_request
                error = "invalid_request" if grant_type == TOKEN_EXCHANGE else "invalid_grant"
                return JSONResponse({"error": error}, status_code=400)
            except ScopeRefused:
                return JSONResponse({"error": "invalid_scope"}, status_code=400)
            except BadRequest as exc:
                return exc.response()
            extra = {"issued_token_type": ACCESS_TOKEN_TYPE} if grant_type == TOKEN_EXCHANGE else {}
            return _token_response(issued[0], fault, self._settings.profile.scope_separator, extra)

        answer = await self._faults.around(fault, request, work)
        if issued and fault is not None and await _never_arrives(fault, request):
            self._book.note_lost_answer(issued[0])
        return answer

    def _client(self, request: Request, form: Mapping[str, str], grant_type: str) -> RegisteredClient:
        """A JWT that vouches may come without any client (RFC 7521 section 4.1): then its issuer is all that is known."""
        vouched = grant_type in (JWT_BEARER, TOKEN_EXCHANGE) and bool(self._settings.trusted_issuers)
        if vouched and "authorization" not in request.headers and not {"client_id", "client_secret"} & form.keys():
            return _NO_CLIENT
        return authenticate_client(request, form, self._settings.clients, realm=self._settings.brand)

    def _issue(self, grant_type: str, client: RegisteredClient, form: Mapping[str, str]) -> IssuedTokens:
        if grant_type == "authorization_code":
            _require(form, "code", "redirect_uri", "code_verifier")
            return self._book.redeem_code(
                form["code"],
                client_id=client.client_id,
                redirect_uri=form["redirect_uri"],
                verifier=form["code_verifier"],
            )
        if grant_type == "refresh_token":
            _require(form, "refresh_token")
            scopes = self._settings.split_scopes(form["scope"]) if "scope" in form else None
            return self._book.refresh(form["refresh_token"], client_id=client.client_id, scopes=scopes)
        if grant_type in (JWT_BEARER, TOKEN_EXCHANGE) and self._settings.trusted_issuers:
            return self._issue_for_assertion(grant_type, client, form)
        raise BadRequest("unsupported_grant_type", "This grant type is not offered here.")

    def _issue_for_assertion(self, grant_type: str, client: RegisteredClient, form: Mapping[str, str]) -> IssuedTokens:
        token = form.get("assertion" if grant_type == JWT_BEARER else "subject_token", "")
        try:
            voucher = self._believed(grant_type, client, form)
        except AssertionRefused as exc:
            self._book.note_refused_assertion(token, why=exc.why)
            raise
        scopes = self._settings.split_scopes(form.get("scope", ""))
        if not self._settings.knows_scopes(scopes) or not (voucher.scopes is None or voucher.scopes >= set(scopes)):
            raise ScopeRefused
        return self._book.grant_directly(
            client_id=client.client_id or str(voucher.claims["iss"]),
            account=voucher.account,
            scopes=scopes,
            assertion=token,
            kind=voucher.kind,
            claims=voucher.claims,
        )

    def _believed(self, grant_type: str, client: RegisteredClient, form: Mapping[str, str]) -> Voucher:
        if grant_type == JWT_BEARER:
            _require(form, "assertion")
            return self._assertions.for_jwt_bearer(form["assertion"], client)
        _require(form, "subject_token", "subject_token_type")
        if form["subject_token_type"] not in JWT_TYPES or "actor_token" in form:
            raise BadRequest("invalid_request", "The subject token must be a JWT, without an actor token.")
        return self._assertions.for_token_exchange(form["subject_token"])

    async def revoke(self, request: Request) -> Response:
        """`POST /oauth/revoke`. RFC 7009: unknown tokens are no error."""
        form = await read_form(request)
        client = authenticate_client(request, form, self._settings.clients, realm=self._settings.brand)
        _require(form, "token")
        self._book.revoke(form["token"], client_id=client.client_id)
        return Response(status_code=200)


async def _never_arrives(fault: Fault, request: Request) -> bool:
    """Whether the client was told something else, or had gone before it could be told."""
    if fault.kind == "slow":
        return await request.is_disconnected()
    return fault.after_commit


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

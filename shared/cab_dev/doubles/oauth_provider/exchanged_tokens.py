"""Access tokens made from another access token of the same grant: RFC 8693 downscoping, and Microsoft Entra's on-behalf-of.

A double offers one of them, by its profile. Whatever is not exactly as documented is refused, and the ledger has every exchange
with the digest of the token that was presented.
"""

from collections.abc import Mapping

from starlette.requests import Request

from cab_dev.doubles.clients import authenticate_client
from cab_dev.doubles.oauth_provider.profiles import Exchange
from cab_dev.doubles.oauth_provider.settings import ProviderSettings, own_api
from cab_dev.doubles.oauth_provider.token_book import GrantRefused, IssuedTokens, ScopeRefused, TokenBook
from cab_dev.doubles.oauth_provider.trusted_assertions import ACCESS_TOKEN_TYPE, JWT_BEARER, TOKEN_EXCHANGE
from cab_dev.doubles.strict_input import BadRequest

_EXCHANGE_MEMBERS = frozenset(
    {"grant_type", "subject_token", "subject_token_type", "requested_token_type", "scope", "resource"}
)
_ON_BEHALF_OF_MEMBERS = frozenset({"grant_type", "assertion", "requested_token_use", "scope"})
_CLIENT_MEMBERS = frozenset({"client_id", "client_secret"})


class ExchangedTokens:
    def __init__(self, settings: ProviderSettings, book: TokenBook) -> None:
        self._settings = settings
        self._book = book

    def answers(self, form: Mapping[str, str]) -> bool:
        """Whether a request is of this kind and the double offers it."""
        offered = self._settings.profile.exchange
        if offered is Exchange.NONE:
            return False
        if offered is Exchange.ON_BEHALF_OF:
            return form.get("grant_type") == JWT_BEARER and "requested_token_use" in form
        return form.get("grant_type") == TOKEN_EXCHANGE and form.get("subject_token_type") == ACCESS_TOKEN_TYPE

    def issue(self, request: Request, form: Mapping[str, str]) -> IssuedTokens:
        """Raises BadRequest, ScopeRefused."""
        if self._settings.profile.exchange is Exchange.ON_BEHALF_OF:
            return self._on_behalf_of(request, form)
        return self._downscoped(request, form)

    def _downscoped(self, request: Request, form: Mapping[str, str]) -> IssuedTokens:
        """RFC 8693 section 2.1; a subject token that does not do is an invalid_request (section 2.2.2)."""
        alone = self._settings.profile.exchange is Exchange.TOKEN_ALONE
        _refuse_unknown(form, _EXCHANGE_MEMBERS if alone else _EXCHANGE_MEMBERS | _CLIENT_MEMBERS)
        if alone and "authorization" in request.headers:
            raise BadRequest("invalid_request", "The token is presented alone.")
        client_id = None if alone else self._client_id(request, form)
        if form.get("requested_token_type", ACCESS_TOKEN_TYPE) != ACCESS_TOKEN_TYPE:
            raise BadRequest("invalid_request", "Only access tokens are issued.")
        ours = self._settings.resource or self._settings.issuer
        if form.get("resource", ours) != ours:
            raise BadRequest("invalid_target", "There is no such resource.")
        try:
            return self._book.exchange(
                form.get("subject_token", ""), client_id=client_id, scopes=self._scopes(form), for_own_api=False
            )
        except GrantRefused:
            raise BadRequest("invalid_request", "The subject token is not accepted.") from None

    def _on_behalf_of(self, request: Request, form: Mapping[str, str]) -> IssuedTokens:
        """The assertion is a token for the asking client's own API; what comes of it is for other APIs, never for that one."""
        _refuse_unknown(form, _ON_BEHALF_OF_MEMBERS | _CLIENT_MEMBERS)
        client_id = self._client_id(request, form)
        if self._settings.clients[client_id].client_secret is None:
            raise BadRequest("invalid_client", "Public clients act on behalf of nobody.", status=401)
        if form["requested_token_use"] != "on_behalf_of":
            raise BadRequest("invalid_request", "requested_token_use must be on_behalf_of.")
        scopes = self._scopes(form)
        if any(scope.startswith(own_api(client_id)) for scope in scopes):
            raise ScopeRefused
        consented = self._settings.consented_scopes
        if consented is not None and not set(scopes) <= consented:
            raise BadRequest("invalid_grant", "AADSTS65001: consent is missing.")
        try:
            return self._book.exchange(form.get("assertion", ""), client_id=client_id, scopes=scopes, for_own_api=True)
        except GrantRefused:
            raise BadRequest("invalid_grant", "AADSTS50013: the assertion is not accepted.") from None

    def _client_id(self, request: Request, form: Mapping[str, str]) -> str:
        settings = self._settings
        return authenticate_client(request, form, settings.clients, realm=settings.brand).client_id

    def _scopes(self, form: Mapping[str, str]) -> tuple[str, ...]:
        scopes = self._settings.split_scopes(form.get("scope", ""))
        if not self._settings.knows_scopes(scopes):
            raise ScopeRefused
        return scopes


def _refuse_unknown(form: Mapping[str, str], known: frozenset[str]) -> None:
    if not set(form) <= known:
        raise BadRequest("invalid_request", "The request has members that have no place in it.")

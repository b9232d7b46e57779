"""The broker as an OAuth client of downstream providers: the five calls it makes, each sent once, never retried here."""

from __future__ import annotations

from urllib.parse import urlencode

from cab.domain.configured.connections import Connection, Provider
from cab.ports import HttpAnswer, HttpClient, SecretReader
from cab.protocol.client_secrets import with_secret
from cab.protocol.token_responses import MAX_RESPONSE_BYTES
from cab.use_cases.audit.waits import waiting_for

OTHER_TIMEOUT_S = 5.0


class ProviderCalls:
    def __init__(self, http: HttpClient, client_secrets: SecretReader) -> None:
        self._http = http
        self._client_secrets = client_secrets

    @staticmethod
    def authorization_url(
        connection: Connection,
        provider: Provider,
        *,
        redirect_uri: str,
        state: str,
        code_challenge: str,
        scopes: tuple[str, ...],
    ) -> str:
        """Where the user's browser goes for consent. PKCE S256 is left out only where the provider cannot take it."""
        query = {
            **provider.authorization_parameters,
            "response_type": "code",
            "client_id": connection.client_id or "",
            "redirect_uri": redirect_uri,
            "scope": provider.scope_separator.join(scopes),
            "state": state,
            **connection.token_resource,
        }
        if provider.pkce != "unsupported":
            query |= {"code_challenge": code_challenge, "code_challenge_method": "S256"}
        separator = "&" if "?" in (provider.authorization_endpoint or "") else "?"
        return f"{provider.authorization_endpoint}{separator}{urlencode(query)}"

    async def redeem_code(
        self, connection: Connection, provider: Provider, *, code: str, redirect_uri: str, code_verifier: str
    ) -> HttpAnswer:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        form |= connection.token_resource
        if provider.pkce != "unsupported":
            form["code_verifier"] = code_verifier
        return await self._post(connection, provider, provider.token_endpoint, form, timeout_s=OTHER_TIMEOUT_S * 2)

    async def refresh(
        self,
        connection: Connection,
        provider: Provider,
        *,
        refresh_token: str,
        scopes: tuple[str, ...],
        timeout_s: float,
    ) -> HttpAnswer:
        """Raises: SendFailed, AnswerTooLarge; Unavailable when the client secret cannot be read (nothing was sent then)."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        form |= connection.token_resource
        if scopes:
            form["scope"] = provider.scope_separator.join(scopes)
        return await self._post(connection, provider, provider.token_endpoint, form, timeout_s=timeout_s)

    async def present(
        self, connection: Connection, provider: Provider, form: dict[str, str], *, with_client: bool, timeout_s: float
    ) -> HttpAnswer:
        """A form that carries a token for the user (RFC 7523 section 2.1, RFC 8693 section 2.1), with client authentication
        beside it or without.

        Raises: SendFailed, AnswerTooLarge, NotFound, Unavailable.
        """
        form = form | connection.token_resource
        if with_client:
            return await self._post(connection, provider, provider.token_endpoint, form, timeout_s=timeout_s)
        headers = {"Accept": "application/json"}
        return await self._post_members(provider, provider.token_endpoint, form, headers, timeout_s=timeout_s)

    async def revoke(self, connection: Connection, provider: Provider, *, token: str, hint: str) -> HttpAnswer:
        """RFC 7009 section 2.1."""
        form = {"token": token, "token_type_hint": hint}
        return await self._post(connection, provider, provider.revocation.endpoint, form, timeout_s=OTHER_TIMEOUT_S)

    async def userinfo(self, provider: Provider, *, access_token: str) -> HttpAnswer:
        with waiting_for("provider"):
            return await self._http.get(
                provider.userinfo_endpoint or "",
                headers={"Authorization": f"Bearer {access_token}", "Accept": "application/json"},
                timeout_s=OTHER_TIMEOUT_S,
            )

    async def prepare(self, connection: Connection) -> None:
        """Read what a call needs beforehand, so that a send never fails for a reason of our own."""
        if connection.client_secret is not None:
            await self._client_secrets.access(connection.client_secret.secret, connection.client_secret.version)

    async def _post(
        self, connection: Connection, provider: Provider, url: str | None, form: dict[str, str], *, timeout_s: float
    ) -> HttpAnswer:
        form, headers = await self._with_client(connection, provider, form)
        return await self._post_members(provider, url, form, headers, timeout_s=timeout_s)

    async def _post_members(
        self, provider: Provider, url: str | None, form: dict[str, str], headers: dict[str, str], *, timeout_s: float
    ) -> HttpAnswer:
        """Form-encoded (RFC 6749 appendix B), or the same members as JSON where the provider reads nothing else."""
        send = self._http.post_json if provider.token_request_format == "json" else self._http.post_form
        with waiting_for("provider"):
            return await send(url or "", form, headers=headers, timeout_s=timeout_s, max_bytes=MAX_RESPONSE_BYTES)

    async def _with_client(
        self, connection: Connection, provider: Provider, form: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Client authentication as the provider wants it (RFC 6749 section 2.3.1)."""
        headers = {"Accept": "application/json"}
        client_id = connection.client_id or ""
        if connection.client_secret is None or provider.token_endpoint_auth_method == "none":
            return form | {"client_id": client_id}, headers
        reference = connection.client_secret
        secret = (await self._client_secrets.access(reference.secret, reference.version)).decode()
        in_form = provider.token_endpoint_auth_method == "client_secret_post"
        form, authenticated = with_secret(form, client_id, secret, in_form=in_form)
        return form, headers | authenticated

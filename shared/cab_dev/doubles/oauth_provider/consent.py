"""The user's side of the provider double: a consent page without passwords, and the decision."""

import html
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from cab_dev.doubles.authorization_answer import RefusedToClient, back_to_client
from cab_dev.doubles.browser_requests import WaitingRequests, browser_of, new_browser, set_browser_cookie
from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.oauth_provider.settings import Account, ProviderSettings
from cab_dev.doubles.oauth_provider.token_book import TokenBook
from cab_dev.doubles.pages import Pages
from cab_dev.doubles.strict_input import BadRequest, read_form, read_query


@dataclass(frozen=True, kw_only=True)
class _ConsentRequest:
    client: RegisteredClient
    redirect_uri: str
    scopes: tuple[str, ...]
    challenge: str
    state: str | None


class ConsentPages:
    """Asks the user and issues the code. RFC 6749 section 4.1.1, PKCE S256 required, `iss` in every answer."""

    def __init__(self, settings: ProviderSettings, book: TokenBook) -> None:
        self._settings = settings
        self._book = book
        self._pages = Pages(settings.brand, settings.accent)
        self._waiting: WaitingRequests[_ConsentRequest] = WaitingRequests(settings.clock)
        self._signed_in: dict[str, Account] = {}  # by browser id
        self._secure = settings.issuer.startswith("https:")

    def forget_browsers(self) -> None:
        self._signed_in.clear()

    async def authorize(self, request: Request) -> Response:
        """`GET /oauth/authorize`. Only a client and address that are registered are ever redirected to."""
        try:
            query = read_query(request)
        except BadRequest as exc:
            return self._pages.problem(exc.description)
        client = self._settings.clients.get(query.get("client_id", ""))
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
        browser = browser_of(request, self._settings.cookie) or new_browser()
        request_id = self._waiting.leave(asked, browser=browser)
        page = self._consent_page(asked, request_id, self._signed_in.get(browser))
        set_browser_cookie(page, self._settings.cookie, browser, secure=self._secure)
        return page

    def _requested_scopes(self, query: Mapping[str, str]) -> tuple[str, ...]:
        if query.get("response_type") != "code":
            raise RefusedToClient("unsupported_response_type")
        challenge = query.get("code_challenge", "")
        if query.get("code_challenge_method") != "S256" or len(challenge) != 43:
            raise RefusedToClient("invalid_request")
        if query.get("prompt") == "none":
            raise RefusedToClient("interaction_required")
        if not self._settings.is_for_us(query.get("resource")):
            raise RefusedToClient("invalid_target")
        scopes = self._settings.split_scopes(query.get("scope", ""))
        if not self._settings.knows_scopes(scopes):
            raise RefusedToClient("invalid_scope")
        return scopes

    def _consent_page(self, asked: _ConsentRequest, request_id: str, known: Account | None) -> Response:
        words = "".join(
            f"<li>{html.escape(self._settings.all_scopes[scope])}<br><code>{html.escape(scope)}</code></li>"
            for scope in asked.scopes
        )
        accounts = sorted(self._settings.accounts, key=lambda account: account is not known)
        buttons = "".join(
            f'<button name="account" value="{html.escape(account.login)}"'
            f"{'' if known in (None, account) else ' class=quiet'}>"
            f"Continue as {html.escape(account.name)}</button>"
            for account in accounts
        )
        body = (
            f"<p><strong>{html.escape(asked.client.display_name)}</strong> would like to use your "
            f"{html.escape(self._settings.brand)} account to:</p><ul>{words}</ul>"
            '<p class="soft">You can end this access at any time.</p>'
            '<form method="post" action="/oauth/consent">'
            f'<input type="hidden" name="request" value="{html.escape(request_id)}">{buttons}'
            '<button class="quiet" name="decision" value="deny">Do not allow</button></form>'
        )
        return self._pages.render("Allow access?", body)

    async def decide(self, request: Request) -> Response:
        """`POST /oauth/consent`: the form of the page, from the browser it was shown in."""
        try:
            form = await read_form(request)
        except BadRequest as exc:
            return self._pages.problem(exc.description, status=exc.status)
        browser = browser_of(request, self._settings.cookie)
        asked = self._waiting.take(form.get("request", ""), browser=browser)
        if asked is None or browser is None:
            return self._pages.problem(
                "This page has expired, or it was opened in another browser. Please start again."
            )
        account = self._settings.account_of(form.get("account"))
        if account is None:
            return self._back(asked.redirect_uri, asked.state, {"error": "access_denied"})
        code = self._book.issue_code(
            client_id=asked.client.client_id,
            account=account.account_id,
            redirect_uri=asked.redirect_uri,
            scopes=asked.scopes,
            challenge=asked.challenge,
        )
        answer = self._back(asked.redirect_uri, asked.state, {"code": code})
        fresh = new_browser()  # a signed-in browser never keeps an id that was known before the sign-in
        self._signed_in.pop(browser, None)
        self._signed_in[fresh] = account
        set_browser_cookie(answer, self._settings.cookie, fresh, secure=self._secure)
        return answer

    def _back(self, redirect_uri: str, state: str | None, answer: Mapping[str, str]) -> Response:
        return back_to_client(redirect_uri, issuer=self._settings.issuer, state=state, answer=answer)

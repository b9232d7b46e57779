"""Two identity providers, one of which works against the people of the other (RFC 9700 section 4.4)."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import parse_qs

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from tests.examples.acme_in_process import BROKER, IDP, IDP_CLIENTS, fresh_idp
from tests.transport.acme_pages import AcmePages, Browser, ForeverMoving, query_of, with_query

from cab.domain.configured.deployment import Deployment
from cab_dev.doubles.clock import MovableClock

EVIL = "http://127.0.0.1:8099"


class EvilIdp:
    """Its operator keeps the codes that it is asked to redeem."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, document = (
            200,
            {"issuer": EVIL}
            | {name: f"{EVIL}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")},
        )
        if scope["path"] == "/token_endpoint":
            self.codes += parse_qs((await receive())["body"].decode())["code"]
            status, document = 400, {"error": "invalid_grant"}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(document).encode()})


class Mixed:
    """Acme's people and the other provider's operator at one broker. Acme's provider says in no answer that it is its own."""

    def __init__(self, callback: str | None, others_callback: str | None) -> None:
        def both(deployment: Deployment) -> Deployment:
            (acme,) = deployment.identity_providers
            entries = [
                acme.model_copy(update={"issuer": issuer, "login": acme.login.model_copy(update={"callback": name})})
                for issuer, name in ((IDP, callback), (EVIL, others_callback))
            ]
            return replace(deployment, identity_providers=tuple(entries))

        self.pages = AcmePages(change=both)
        self.redirect_uri = f"{BROKER}/login/callback" + ("" if callback is None else f"/{callback}")
        registered = replace(IDP_CLIENTS["cab"], redirect_uris=(self.redirect_uri,))
        clock = MovableClock(ForeverMoving(self.pages.clock))
        idp = fresh_idp(clock, clients={"cab": registered})
        self.evil = EvilIdp()
        self.pages.apps[IDP] = idp
        self.pages.idp_http._apps = {IDP: without_iss(idp), EVIL: self.evil}
        self.alice = Browser(self.pages.browser(), "alice")
        self.attacker = Browser(self.pages.browser(), "mallory")

    def attack(self) -> str:
        """The attacker's own page at the end of it."""
        # Begins a login at Acme, and leaves its request to the provider in on it.
        asked = self.attacker.get("/login?idp=0").headers["location"]
        # That sends Alice, who comes to log in there, on to Acme with this request and the state of her own login.
        state = query_of(self.alice.get("/login?idp=1").headers["location"])["state"]
        self.alice.get(with_query(self.alice.consent(with_query(asked, state=state)), iss=None))
        # Acme's code is at the other provider now, if anywhere; it fits the attacker's nonce and code challenge.
        code = next(iter(self.evil.codes), "none")
        answer = with_query(self.redirect_uri, code=code, state=query_of(asked)["state"])
        self.attacker.get(answer)
        return self.attacker.get("/me").text


def without_iss(app: ASGIApp) -> ASGIApp:
    """Its discovery document does not promise `iss`, as those of most providers do not (RFC 9207 section 3)."""

    async def changed(scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if "body" in message:
                message["body"] = message["body"].replace(b"authorization_response_iss_parameter_supported", b"other")
            await send(message)

        await app(scope, receive, told)

    return changed


@pytest.mark.parametrize(("callback", "others"), [("acme", None), (None, "other"), ("acme", "other")])
def test_a_provider_gets_no_code_of_another_that_has_a_callback_of_its_own(
    callback: str | None, others: str | None
) -> None:
    mixed = Mixed(callback, others)

    page = mixed.attack()

    assert "Alice" not in page
    assert mixed.evil.codes == []
    assert "issuer_mismatch" in mixed.pages.refusals()


def test_where_two_share_a_callback_either_can_be_the_others_people() -> None:
    """Why `cab config validate` warns."""
    assert "Alice Moreau" in Mixed(None, None).attack()


@pytest.mark.parametrize("callback", ["acme", None])
def test_people_log_in_at_the_callback_of_their_provider(callback: str | None) -> None:
    mixed = Mixed(callback, "other")

    location = mixed.alice.get("/login?idp=0").headers["location"]
    answer = mixed.alice.get(with_query(mixed.alice.consent(location), iss=None))

    assert (answer.status_code, answer.headers["location"]) == (303, "/me")
    assert query_of(location)["redirect_uri"] == mixed.redirect_uri
    assert "Alice Moreau" in mixed.alice.get("/me").text


@pytest.mark.parametrize("path", ["/login/callback/other", "/login/callback/nobody", "/login/callback"])
def test_an_answer_at_another_callback_logs_nobody_in_and_spends_the_state(path: str) -> None:
    mixed = Mixed("acme", "other")
    callback = with_query(mixed.alice.consent(mixed.alice.get("/login?idp=0").headers["location"]), iss=None)

    for where in (callback.replace("/login/callback/acme", path), callback):
        answer = mixed.alice.get(where)
        assert (answer.status_code, "cab_session" in answer.headers.get("set-cookie", "")) == (400, False)
        assert "This answer came from the wrong place" in answer.text

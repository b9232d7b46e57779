"""What leaves the broker for a provider: encoding, client authentication and addresses, by the provider's facts alone."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.support.web import Sent, Web, WebClient, json_answer

from cab.domain.configured.actions import Action, Effect
from cab.domain.configured.connections import Connection, McpServer, Provider, SecretReference
from cab.ports import HttpAnswer
from cab.use_cases.upstream.provider_client import ProviderCalls
from cab_ops.configuration.provider_table import presets

PRESETS = {provider.id: provider for provider in presets()}
READ = Action(id="x.read", title="Read", effect=Effect.READ, scopes=("a", "b"), identifier="x/{id}")
CONNECTION = Connection(
    id="x",
    title="X",
    provider="x",
    resource="https://x.test",
    tenants=("acme",),
    client_id="cab",
    client_secret=SecretReference(secret="cab-provider-x", version=3),
    actions=(READ,),
)


class Secrets:
    async def access(self, secret: str, version: int) -> bytes:
        assert (secret, version) == ("cab-provider-x", 3)
        return b"s3cret"


async def _answer(_: Sent) -> HttpAnswer:
    return json_answer({})


def sent_to(address: str, call: Any) -> Sent:
    """The one request that `call` makes with a `ProviderCalls`."""
    parts = urlsplit(address)
    origin = f"{parts.scheme}://{parts.netloc}"
    web = Web(hosts={origin: _answer})
    asyncio.run(call(ProviderCalls(WebClient(web, [origin], what="provider"), Secrets())))
    (sent,) = web.sent
    assert sent.url == address
    return sent


def refreshed(provider: Provider) -> Sent:
    return sent_to(
        provider.token_endpoint or "",
        lambda calls: calls.refresh(CONNECTION, provider, refresh_token="r", scopes=("a", "b"), timeout_s=10.0),
    )


def test_requests_are_forms_unless_the_provider_says_otherwise() -> None:
    sent = refreshed(PRESETS["linear"])
    assert dict(parse_qsl(sent.body.decode())) == {
        "grant_type": "refresh_token",
        "refresh_token": "r",
        "scope": "a,b",
        "client_id": "cab",
        "client_secret": "s3cret",
    }


def test_a_provider_that_reads_json_gets_the_same_members_as_json() -> None:
    sent = refreshed(PRESETS["atlassian"])
    assert json.loads(sent.body) == {
        "grant_type": "refresh_token",
        "refresh_token": "r",
        "scope": "a b",
        "client_id": "cab",
        "client_secret": "s3cret",
    }


def test_basic_authentication_and_json_go_together() -> None:
    sent = sent_to(
        "https://api.notion.com/v1/oauth/token",
        lambda calls: calls.redeem_code(
            CONNECTION, PRESETS["notion"], code="c", redirect_uri="https://cab.test/cb", code_verifier="v"
        ),
    )
    assert sent.headers["Authorization"] == "Basic " + base64.b64encode(b"cab:s3cret").decode()
    assert json.loads(sent.body) == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": "https://cab.test/cb",
        "code_verifier": "v",
    }


def test_revocation_is_encoded_like_token_requests() -> None:
    sent = sent_to(
        "https://auth.monday.com/oauth_ms/oauth/revoke",
        lambda calls: calls.revoke(CONNECTION, PRESETS["monday"], token="r", hint="refresh_token"),
    )
    assert json.loads(sent.body) == {
        "token": "r",
        "token_type_hint": "refresh_token",
        "client_id": "cab",
        "client_secret": "s3cret",
    }


@pytest.mark.parametrize(
    "provider", [item for item in PRESETS.values() if item.authorization_endpoint], ids=lambda p: p.id
)
def test_every_presets_authorization_request_carries_state_and_pkce_to_its_own_host(provider: Provider) -> None:
    filled = provider.at({name: parameter.example for name, parameter in provider.parameters.items()})
    url = ProviderCalls(WebClient(Web(), [], what="provider"), Secrets()).authorization_url(
        CONNECTION,
        filled,
        redirect_uri="https://cab.test/connect/callback/x",
        state="s",
        code_challenge="c",
        scopes=("a", "b"),
    )
    assert url.startswith(f"{filled.authorization_endpoint}?")
    query = dict(parse_qsl(urlsplit(url).query))
    assert query == {
        **provider.authorization_parameters,
        "response_type": "code",
        "client_id": "cab",
        "redirect_uri": "https://cab.test/connect/callback/x",
        "scope": provider.scope_separator.join(("a", "b")),
        "state": "s",
        "code_challenge": "c",
        "code_challenge_method": "S256",
    }


@pytest.mark.parametrize(("pkce", "sent"), [("supported", True), ("unknown", True), ("unsupported", False)])
def test_pkce_is_left_out_only_where_the_provider_cannot_take_it(pkce: str, sent: bool) -> None:
    """`unsupported` changed nothing before."""
    provider = PRESETS["zoom"].model_copy(update={"pkce": pkce})
    back = "https://cab.test/c"
    url = ProviderCalls.authorization_url(
        CONNECTION, provider, redirect_uri=back, state="s", code_challenge="c" * 43, scopes=()
    )
    assert ("code_challenge" in url, "code_challenge_method=S256" in url) == (sent, sent)
    redeemed = sent_to(
        provider.token_endpoint or "",
        lambda calls: calls.redeem_code(CONNECTION, provider, code="c", redirect_uri=back, code_verifier="v" * 43),
    )
    assert (b"code_verifier" in redeemed.body) is sent


# --- RFC 8707 ---

SERVER = McpServer(endpoint="https://x.test/mcp", protocol="2026-07-28")
AT_PROVIDER = Provider(
    id="x", title="X", authorization_endpoint="https://p.test/authorize", token_endpoint="https://p.test/token"
)


def resource_sent(connection: Connection, call: Any) -> str | None:
    sent = sent_to("https://p.test/token", lambda calls: call(calls, connection))
    return dict(parse_qsl(sent.body.decode())).get("resource")


def test_every_request_for_a_token_of_an_mcp_server_names_its_resource_and_others_name_none() -> None:
    def redeem(calls: ProviderCalls, to: Connection) -> Any:
        return calls.redeem_code(to, AT_PROVIDER, code="c", redirect_uri="https://cab.test/cb", code_verifier="v")

    def refresh(calls: ProviderCalls, to: Connection) -> Any:
        return calls.refresh(to, AT_PROVIDER, refresh_token="r", scopes=("a",), timeout_s=1)

    def present(calls: ProviderCalls, to: Connection) -> Any:  # token exchange, JWT bearer, ID-JAG
        return calls.present(to, AT_PROVIDER, {"scope": "a"}, with_client=False, timeout_s=1)

    def authorize(to: Connection) -> str | None:
        url = ProviderCalls.authorization_url(
            to, AT_PROVIDER, redirect_uri="https://cab.test/cb", state="s", code_challenge="c", scopes=("a",)
        )
        return dict(parse_qsl(urlsplit(url).query)).get("resource")

    to_server = CONNECTION.model_copy(update={"mcp": SERVER})
    for connection, expected in ((to_server, "https://x.test"), (CONNECTION, None)):
        named = [authorize(connection), *(resource_sent(connection, call) for call in (redeem, refresh, present))]
        assert named == [expected] * 4

"""Unmodified public OAuth and MCP clients against the running stack, over real HTTP. What they cannot do, we must not need."""

from __future__ import annotations

import json
from typing import Any

import anyio
import google.auth.exceptions
import jwt
import pytest
import requests
import requests_oauth2client
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from examples.acme.person import Person
from examples.acme.services.id_jags import ID_JAG_TOKEN_TYPE
from google.auth.transport.requests import Request as GoogleRequest
from google.oauth2 import sts
from google.oauth2.utils import ClientAuthentication, ClientAuthType
from joserfc.jwk import ECKey
from mcp import Client
from mcp.client.auth import OAuthTokenError
from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from requests_oauth2client import BearerToken, DPoPKey, OAuth2Client, PrivateKeyJwt
from tests.running_stack import Stack
from tests.support.guests.deployment import (
    CLOUD_CLIENT_SECRET,
    DESKTOP,
    FRONT_END_ACCOUNT,
    MCP_CLIENT_SECRET,
    WORKLOAD_ACCOUNT,
)

from cab.domain.identifiers import subject_key
from cab.protocol.names import CLIENT_ASSERTION_TYPE, ID_TOKEN_TYPE, JWT_TYPE, TOKEN_EXCHANGE
from cab_dev.front_end import client_assertion

pytestmark = pytest.mark.stack


@pytest.fixture
def stack(guests_stack: Stack) -> Stack:
    return guests_stack


class EdgeAssertion(BearerToken):
    """RFC 8693 section 2.2.1: what is not an access token has the type N_A. The library wants to be told."""

    TOKEN_TYPE = "N_A"


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def private_key(stack: Stack, client_id: str) -> dict[str, Any]:
    key: dict[str, Any] = json.loads((stack.state_dir / "keys" / f"{client_id}.json").read_text())
    return key


def agent(stack: Stack, client_id: str = "sales-assistant", **options: Any) -> OAuth2Client:
    """The agent as its operator sets it up: the issuer and the key are all it is told."""
    issuer = stack.file.issuer
    auth = PrivateKeyJwt(client_id, private_key(stack, client_id), alg="ES256", aud=issuer)
    return OAuth2Client.from_discovery_endpoint(issuer=issuer, auth=auth, testing=True, **options)


def intent(stack: Stack, action: str, identifier: str, **parameters: Any) -> dict[str, str]:
    """The parameters that name target and intent."""
    resource = stack.file.connections[action.partition(".")[0]].resource
    detail = {
        "type": "cab_action",
        "actions": [action],
        "locations": [resource],
        "identifier": identifier,
        "parameters": parameters,
    }
    return {"resource": resource, "authorization_details": json.dumps([detail])}


def exchange(client: OAuth2Client, assertion: str, **parameters: Any) -> BearerToken:
    return client.token_exchange(subject_token=assertion, subject_token_type=JWT_TYPE, **parameters)


def unverified(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


# --- requests_oauth2client --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-authorization-server/oauth2",
        "/.well-known/openid-configuration/oauth2",
        "/oauth2/.well-known/openid-configuration",
    ],
)
def test_a_client_finds_everything_from_the_issuer(stack: Stack, path: str) -> None:
    origin = stack.file.origin
    client = OAuth2Client.from_discovery_endpoint(origin + path, issuer=stack.file.issuer, client_id="x", testing=True)
    assert client.token_endpoint == f"{origin}/oauth2/token"
    assert client.introspection_endpoint == f"{origin}/oauth2/introspect"
    assert client.revocation_endpoint == f"{origin}/oauth2/revoke"
    assert client.authorization_server_jwks.jwks


def test_an_agent_gets_the_platform_s_own_token_for_one_intent(stack: Stack) -> None:
    assertion = stack.front_end.assertion("alice", agent="sales-assistant")
    wanted = intent(stack, "crm.opportunity.read", "opportunity/0061")
    token = exchange(agent(stack), assertion, **wanted)
    assert (token.token_type, token.scope) == ("Bearer", "opportunity.read")
    assert token.refresh_token is None
    assert token.expires_in
    assert 0 < token.expires_in <= 3600
    assert token.kwargs["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert token.kwargs["authorization_details"] == json.loads(wanted["authorization_details"])
    assert token.kwargs["txn"] == unverified(assertion)["txn"]
    crm = stack.file.connections["crm"].api_base
    assert requests.get(f"{crm}/opportunities/0061", auth=token, timeout=10).json()["id"] == "0061"
    assert requests.get(f"{crm}/opportunities/0062", auth=token, timeout=10).status_code == 404  # bob's


def test_the_actor_token_must_be_of_the_agent_itself(stack: Stack) -> None:
    assertion = stack.front_end.assertion("alice", agent="sales-assistant")
    client = agent(stack)
    wanted = intent(stack, "warehouse.query.run", "query/acme_history")

    def actor_token(client_id: str) -> str:
        key = stack.state_dir / "keys" / f"{client_id}.json"
        return client_assertion(key, client_id=client_id, audience=stack.file.issuer)

    token = exchange(client, assertion, actor_token=actor_token("sales-assistant"), actor_token_type=JWT_TYPE, **wanted)
    assert unverified(token.access_token)["act"] == {
        "sub": "sales-assistant",
        "iss": stack.file.issuer,
        "sub_profile": "ai_agent",
    }
    with pytest.raises(requests_oauth2client.InvalidRequest) as refused:
        exchange(client, assertion, actor_token=actor_token("ops-bot"), actor_token_type=JWT_TYPE, **wanted)
    assert refused.value.response.json()["reason_code"] == "actor_mismatch"


def test_introspection_and_revocation_work_as_the_library_expects(stack: Stack) -> None:
    client = agent(stack)
    assertion = stack.front_end.assertion("alice", agent="sales-assistant")
    for action, identifier in (
        ("warehouse.query.run", "query/acme_history"),
        ("crm.opportunity.read", "opportunity/1"),
    ):
        token = exchange(client, assertion, **intent(stack, action, identifier))
        found = client.introspect_token(token)
        assert found["active"] is True
        assert (found["client_id"], found["scope"]) == ("sales-assistant", token.scope)
        assert found["authorization_details"] == token.kwargs["authorization_details"]
        assert found["sub"] == unverified(assertion)["sub"]
        assert agent(stack, "ops-bot").introspect_token(token) == {"active": False}
        assert client.revoke_access_token(token) is True
        assert client.introspect_token(token) == {"active": False}
    assert client.introspect_token("unknown") == {"active": False}
    assert client.revoke_token("unknown") is True


def test_every_refusal_arrives_as_the_library_s_own_error_with_a_reason(stack: Stack) -> None:
    client = agent(stack)
    assertion = stack.front_end.assertion("alice", agent="sales-assistant")
    read: dict[str, Any] = intent(stack, "crm.opportunity.read", "opportunity/0061")
    cases: list[tuple[type[Exception], str, dict[str, str]]] = [
        (requests_oauth2client.InvalidTarget, "target_missing", {}),
        (requests_oauth2client.InvalidTarget, "target_unknown", read | {"resource": "https://other.example"}),
        (requests_oauth2client.InvalidScope, "scope_not_grantable", read | {"scope": "opportunity.write"}),
        (requests_oauth2client.InvalidRequest, "parameter_invalid", read | {"requested_token_type": "x"}),
        (requests_oauth2client.UnknownTokenEndpointError, "intent_missing", {"resource": read["resource"]}),
        (
            requests_oauth2client.UnknownTokenEndpointError,
            "intent_outside_task",
            intent(stack, "crm.opportunity.update", "opportunity/0061", stage="won"),
        ),
    ]
    for kind, reason, parameters in cases:
        with pytest.raises(kind) as refused:
            exchange(client, assertion, **parameters)
        assert refused.type is kind
        body = refused.value.response.json()  # type: ignore[attr-defined]
        assert body["reason_code"] == reason
        assert body["txn"]
    with pytest.raises(requests_oauth2client.InvalidRequest) as invalid:
        exchange(client, assertion + "x", **read)
    assert invalid.value.response.json()["reason_code"] == "subject_token_invalid"
    with pytest.raises(requests_oauth2client.UnauthorizedClient) as unauthorized:
        client.jwt_bearer(assertion, **read)
    assert unauthorized.value.response.json()["reason_code"] == "grant_type_not_allowed"
    stranger = private_key(stack, "ops-bot")
    impostor = OAuth2Client(
        client.token_endpoint,
        PrivateKeyJwt("sales-assistant", stranger, alg="ES256", aud=stack.file.issuer),
        testing=True,
    )
    with pytest.raises(requests_oauth2client.InvalidClient) as unknown:
        exchange(impostor, assertion, **read)
    assert unknown.value.response.json()["reason_code"] == "client_authentication_failed"


def mint(stack: Stack, user: str, may_act: str, **options: Any) -> str:
    """An assertion, minted with the same library."""
    file = stack.file
    front_end = OAuth2Client(
        f"{file.edge_issuer}/token",
        PrivateKeyJwt("acme-web", private_key(stack, "acme-web"), alg="ES256", aud=file.edge_issuer),
        token_class=EdgeAssertion,
        testing=True,
    )
    token = front_end.token_exchange(
        subject_token=stack.front_end.id_token(user),
        subject_token_type=ID_TOKEN_TYPE,
        requested_token_type=JWT_TYPE,
        audience=file.issuer,
        may_act=may_act,
        **options,
    )
    assert token.token_type == "N_A"
    return str(token.access_token)


def test_the_same_library_mints_and_delegates(stack: Stack) -> None:
    assertion = mint(stack, "alice", "sales-assistant")
    assert unverified(assertion)["may_act"] == {"sub": "sales-assistant"}
    handed_on = exchange(
        agent(stack, token_class=EdgeAssertion),
        assertion,
        requested_token_type=JWT_TYPE,
        audience=stack.file.issuer,
        may_act="ops-bot",
    )
    assert unverified(handed_on.access_token)["act"] == {"sub": "sales-assistant", "iss": stack.file.issuer}


def test_a_broker_token_is_bound_to_the_key_of_the_proof(stack: Stack) -> None:
    key = DPoPKey.generate()
    token = exchange(
        agent(stack),
        mint(stack, "alice", "sales-assistant"),
        dpop=True,
        dpop_key=key,
        **intent(stack, "warehouse.query.run", "query/acme_history"),
    )
    assert token.token_type == "DPoP"
    assert unverified(token.access_token)["cnf"] == {"jkt": key.dpop_jkt}
    warehouse = stack.file.connections["warehouse"].api_base
    body = {"query": "acme_history"}
    answer = requests.post(f"{warehouse}/query", json=body, auth=token, timeout=10)
    assert answer.json()["columns"] == ["quarter", "amount"]
    bearer = {"Authorization": f"Bearer {token.access_token}"}
    assert requests.post(f"{warehouse}/query", json=body, headers=bearer, timeout=10).status_code == 401


def test_an_assertion_that_is_bound_at_mint_works_with_its_key_only(stack: Stack) -> None:
    key = DPoPKey.generate()
    assertion = mint(stack, "alice", "sales-assistant", dpop=True, dpop_key=key)
    assert unverified(assertion)["cnf"] == {"jkt": key.dpop_jkt}
    client = agent(stack)
    wanted = intent(stack, "crm.opportunity.read", "opportunity/0061")
    for other in ({}, {"dpop": True}):
        with pytest.raises(requests_oauth2client.UnknownTokenEndpointError) as refused:
            exchange(client, assertion, **other, **wanted)
        assert refused.value.error == "invalid_dpop_proof"
        assert refused.value.response.json()["reason_code"] == "dpop_proof_invalid"
    token = exchange(client, assertion, dpop=True, dpop_key=key, **wanted)
    assert token.token_type == "Bearer"  # the platform's token cannot be bound, and the answer says so
    crm = stack.file.connections["crm"].api_base
    headers = {"Authorization": f"Bearer {token.access_token}"}
    assert requests.get(f"{crm}/opportunities/0061", headers=headers, timeout=10).status_code == 200


# --- Authlib ----------------------------------------------------------------------------------------------------------


def authlib_client(stack: Stack, client_id: str) -> OAuth2Session:
    """Authlib signs for the endpoint's URL and an hour, names no client_id and no key."""
    key = ECKey.import_key(private_key(stack, client_id))
    session = OAuth2Session(
        client_id, key, token_endpoint_auth_method="private_key_jwt", revocation_endpoint_auth_method="private_key_jwt"
    )
    session.register_client_auth_method(PrivateKeyJWT(f"{stack.file.issuer}/token", alg="ES256"))
    return session


def test_authlib_exchanges_introspects_and_revokes(stack: Stack) -> None:
    issuer = stack.file.issuer
    client = authlib_client(stack, "legacy-tool")
    parameters = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": stack.front_end.assertion("alice", agent="legacy-tool"),
        "subject_token_type": JWT_TYPE,
    }
    wanted = intent(stack, "warehouse.query.run", "query/acme_history")
    token = client.fetch_token(f"{issuer}/token", **parameters, **wanted)
    assert (token["token_type"], token["scope"]) == ("Bearer", "query.run")
    api = stack.file.connections["warehouse"].api_base
    assert client.post(f"{api}/query", json={"query": "acme_history"}).json()["columns"] == ["quarter", "amount"]

    access_token = token["access_token"]
    for_introspection = authlib_client(stack, "legacy-tool")
    found = for_introspection.introspect_token(f"{issuer}/introspect", token=access_token).json()
    assert (found["active"], found["client_id"]) == (True, "legacy-tool")
    revoked = client.revoke_token(f"{issuer}/revoke", token=access_token)
    assert (revoked.status_code, revoked.content) == (200, b"")
    assert for_introspection.introspect_token(f"{issuer}/introspect", token=access_token).json() == {"active": False}

    with pytest.raises(OAuthError) as refused:
        client.fetch_token(f"{issuer}/token", **parameters, **wanted | {"resource": "https://other.example"})
    assert refused.value.error == "invalid_target"


def test_the_old_way_of_signing_is_refused_to_whom_it_is_not_allowed(stack: Stack) -> None:
    with pytest.raises(OAuthError) as refused:
        authlib_client(stack, "sales-assistant").fetch_token(
            f"{stack.file.issuer}/token",
            grant_type=TOKEN_EXCHANGE,
            subject_token=stack.front_end.assertion("alice", agent="sales-assistant"),
            subject_token_type=JWT_TYPE,
            **intent(stack, "crm.opportunity.read", "opportunity/0061"),
        )
    assert refused.value.error == "invalid_client"


# --- google-auth ------------------------------------------------------------------------------------------------------


def test_google_s_token_exchange_client_gets_what_its_entry_says_it_means(stack: Stack) -> None:
    """It knows Basic authentication only and has no word for an intent."""
    secret = (stack.state_dir / "secrets" / CLOUD_CLIENT_SECRET).read_text()
    basic = ClientAuthentication(ClientAuthType.basic, "cloud-client", secret)
    crm = stack.file.connections["crm"]

    def exchange_for(scope: str) -> dict[str, Any]:
        answer: dict[str, Any] = sts.Client(f"{stack.file.issuer}/token", basic).exchange_token(
            GoogleRequest(),
            grant_type=TOKEN_EXCHANGE,
            subject_token=stack.front_end.assertion("bob", agent="cloud-client"),
            subject_token_type=JWT_TYPE,
            resource=crm.resource,
            scopes=[scope],
        )
        return answer

    answer = exchange_for("opportunity.read")
    assert answer["authorization_details"][0]["actions"] == ["crm.opportunity.list"]
    headers = {"Authorization": f"Bearer {answer['access_token']}"}
    listed = requests.get(f"{crm.api_base}/opportunities?account=acme", headers=headers, timeout=10).json()
    assert [deal["id"] for deal in listed["opportunities"]] == ["0062"]
    # What it sends when nobody sets a scope. No default stands for that, so nothing is guessed.
    with pytest.raises(google.auth.exceptions.OAuthError, match="invalid_authorization_details"):
        exchange_for("https://www.googleapis.com/auth/cloud-platform")


# --- PyJWT, as a resource ---------------------------------------------------------------------------------------------


def test_a_resource_verifies_a_broker_token_with_nothing_but_the_issuer_s_name(stack: Stack) -> None:
    assertion = stack.front_end.assertion("alice", agent="sales-assistant")
    token = exchange(agent(stack), assertion, **intent(stack, "warehouse.query.run", "query/acme_history"))
    metadata = requests.get(f"{stack.file.issuer}/.well-known/openid-configuration", timeout=10).json()
    key = jwt.PyJWKClient(metadata["jwks_uri"]).get_signing_key_from_jwt(token.access_token)
    claims = jwt.decode(
        token.access_token,
        key,
        algorithms=["ES256"],
        issuer=stack.file.issuer,
        audience=stack.file.connections["warehouse"].resource,
        options={"require": ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"], "strict_aud": True},
    )
    assert claims["sub"] == unverified(assertion)["sub"]
    assert jwt.get_unverified_header(token.access_token)["typ"] == "at+jwt"


# --- a workload identity instead of a key -----------------------------------------------------------------------------


def google_identity_token(stack: Stack, audience: str, account: str = WORKLOAD_ACCOUNT) -> str:
    url = stack.file.services["google_identity"].url
    answer = requests.get(f"{url}/token", params={"email": account, "audience": audience}, timeout=10)
    assert answer.status_code == 200
    return answer.text


def federated_exchange(stack: Stack, client_assertion_: str) -> requests.Response:
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": stack.front_end.assertion("alice", agent="workload-tool"),
        "subject_token_type": JWT_TYPE,
        "client_assertion_type": CLIENT_ASSERTION_TYPE,
        "client_assertion": client_assertion_,
        **intent(stack, "crm.opportunity.read", "opportunity/0061"),
    }
    return requests.post(f"{stack.file.issuer}/token", data=form, timeout=10)


def test_a_workload_proves_itself_by_its_platform_s_identity_token(stack: Stack) -> None:
    token = google_identity_token(stack, stack.file.issuer)
    for _ in range(2):  # the platform hands out the same token for an hour, so it is not single use
        answer = federated_exchange(stack, token)
        assert answer.status_code == 200
        assert answer.json()["token_type"] == "Bearer"


def test_an_identity_token_for_another_audience_or_of_another_account_is_refused(stack: Stack) -> None:
    for token in (
        google_identity_token(stack, stack.file.origin),
        google_identity_token(stack, stack.file.edge_issuer),
        google_identity_token(stack, stack.file.issuer, "scheduler@demo-cab.iam.gserviceaccount.com"),
    ):
        answer = federated_exchange(stack, token)
        assert (answer.status_code, answer.json()["reason_code"]) == (401, "client_authentication_failed")


def test_a_front_end_proves_itself_by_its_platform_s_identity_token_too(stack: Stack) -> None:
    form = stack.front_end.mint_form(stack.front_end.id_token("alice"), agent="workload-tool")

    def mint_with(audience: str) -> requests.Response:
        token = google_identity_token(stack, audience, FRONT_END_ACCOUNT)
        return requests.post(f"{stack.file.edge_issuer}/token", form | {"client_assertion": token}, timeout=10)

    answer = mint_with(stack.file.edge_issuer)
    assert (answer.status_code, answer.json()["token_type"]) == (200, "N_A")
    refused = mint_with(stack.file.issuer)  # a token for the other endpoint family
    assert (refused.status_code, refused.json()["reason_code"]) == (401, "client_authentication_failed")


# --- the MCP SDK ------------------------------------------------------------------------------------------------------


class Memory:
    """Token storage of an MCP client."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Desktop:
    """An application that logs a person in at the identity provider and gets ID-JAGs for its MCP client there."""

    def __init__(self, stack: Stack, user: str) -> None:
        self.idp = stack.file.idp.issuer
        self.secret = (stack.state_dir / "secrets" / MCP_CLIENT_SECRET).read_text()
        person = Person(user)
        self._id_token = person.id_token(
            idp_issuer=self.idp, client_id=DESKTOP, redirect_uri="http://127.0.0.1:9/cb", client_secret=self.secret
        )
        person.close()
        self.asked: list[tuple[str, str]] = []
        self.bounds: dict[str, str] = {}
        self.last = ""

    async def id_jag(self, audience: str, resource: str) -> str:
        """The SDK's callback: leg 1, with a public client again."""
        self.asked.append((audience, resource))
        client = OAuth2Client(f"{self.idp}/token", (DESKTOP, self.secret), token_class=EdgeAssertion, testing=True)
        parameters: dict[str, Any] = {"audience": audience, "resource": resource} | self.bounds
        answer = await anyio.to_thread.run_sync(
            lambda: client.token_exchange(
                subject_token=self._id_token,
                subject_token_type=ID_TOKEN_TYPE,
                requested_token_type=ID_JAG_TOKEN_TYPE,
                **parameters,
            )
        )
        self.last = str(answer.access_token)
        return self.last


def mcp_auth(stack: Stack, desktop: Desktop, memory: Memory, **options: Any) -> IdentityAssertionOAuthProvider:
    arguments: dict[str, Any] = {
        "server_url": f"{stack.file.services['notes'].url}/mcp",
        "storage": memory,
        "client_id": "mcp-client",
        "client_secret": desktop.secret,
        "issuer": stack.file.issuer,
        "assertion_provider": desktop.id_jag,
        "token_endpoint_auth_method": "client_secret_basic",
        **options,
    }
    return IdentityAssertionOAuthProvider(**arguments)


async def list_notes(stack: Stack, auth: Any) -> dict[str, Any]:
    url = f"{stack.file.services['notes'].url}/mcp"
    async with (
        create_mcp_http_client(auth=auth) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        result = await client.call_tool("list_notes", {})
    assert result.structured_content is not None
    return dict(result.structured_content)


async def test_an_mcp_client_reaches_an_mcp_server_through_the_broker(stack: Stack) -> None:
    desktop, memory = Desktop(stack, "alice"), Memory()
    seen = await list_notes(stack, mcp_auth(stack, desktop, memory))
    resource = stack.file.connections["notes"].resource
    claims = unverified(desktop.last)
    assert seen == {
        "sub": subject_key("acme", desktop.idp, claims["sub"]),
        "act": {"sub": "mcp-client", "iss": stack.file.issuer, "sub_profile": "ai_agent"},
        "scope": "note.read",
        "authorization_details": [
            {
                "type": "cab_action",
                "actions": ["notes.note.list"],
                "locations": [resource],
                "identifier": "note/*",
                "parameters": {},
            }
        ],
    }
    assert desktop.asked == [(stack.file.issuer, resource)]
    assert memory.tokens
    assert memory.tokens.refresh_token is None


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_an_mcp_client_uses_the_brokers_own_tools_with_an_id_jag_alone(stack: Stack, mode: Any) -> None:
    """It is told the address of the tools. Where to get a token, for what and with which scopes, it finds by itself."""
    desktop, memory, url = Desktop(stack, "alice"), Memory(), f"{stack.file.origin}/mcp"
    async with (
        create_mcp_http_client(auth=mcp_auth(stack, desktop, memory, server_url=url)) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        names = [tool.name for tool in (await client.list_tools()).tools]
        found = await client.call_tool("crm_opportunity_read", {"id": "0061"})
        refused = await client.call_tool("crm_opportunity_delete", {"id": "0061"})
    assert "crm_opportunity_read" in names
    assert (found.structured_content or {})["id"] == "0061"
    assert (refused.is_error, (refused.meta or {})["cab/reason_code"]) == (
        True,
        "intent_outside_task",
    )  # there is no task
    assert desktop.asked == [(stack.file.issuer, url)]
    assert memory.tokens
    assert unverified(memory.tokens.access_token)["aud"] == url


async def test_the_mcp_server_names_the_broker_as_its_authorization_server(stack: Stack) -> None:
    notes = stack.file.services["notes"].url
    answer = requests.post(f"{notes}/mcp", json={}, timeout=10)
    assert answer.status_code == 401
    url = f"{notes}/.well-known/oauth-protected-resource/mcp"
    assert f'resource_metadata="{url}"' in answer.headers["WWW-Authenticate"]
    metadata = requests.get(url, timeout=10).json()
    assert metadata["resource"] == stack.file.connections["notes"].resource
    assert metadata["authorization_servers"] == [stack.file.issuer]


async def test_a_revoked_token_is_dead_at_the_mcp_server_at_once(stack: Stack) -> None:
    desktop, memory = Desktop(stack, "alice"), Memory()
    await list_notes(stack, mcp_auth(stack, desktop, memory))
    assert memory.tokens
    first = memory.tokens.access_token
    revoked = requests.post(
        f"{stack.file.issuer}/revoke", {"token": first}, auth=("mcp-client", desktop.secret), timeout=10
    )
    assert (revoked.status_code, revoked.content) == (200, b"")
    await list_notes(stack, mcp_auth(stack, desktop, memory))  # the SDK meets 401 and asks for a new token
    assert memory.tokens.access_token != first
    assert len(desktop.asked) == 2


async def refusal_of(stack: Stack, auth: Any) -> dict[str, Any]:
    """The broker's words inside the SDK's error."""
    with pytest.RaisesGroup(OAuthTokenError, flatten_subgroups=True, allow_unwrapped=True) as refused:
        await list_notes(stack, auth)
    error: BaseException = refused.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    body: dict[str, Any] = json.loads(str(error)[str(error).index("{") :])
    return body


async def test_an_id_jag_is_spent_once(stack: Stack) -> None:
    desktop = Desktop(stack, "alice")
    await list_notes(stack, mcp_auth(stack, desktop, Memory()))

    async def again(audience: str, resource: str) -> str:
        return desktop.last

    body = await refusal_of(stack, mcp_auth(stack, desktop, Memory(), assertion_provider=again))
    assert (body["error"], body["reason_code"]) == ("invalid_grant", "assertion_invalid")


async def test_an_id_jag_for_another_resource_or_scope_opens_nothing_here(stack: Stack) -> None:
    desktop = Desktop(stack, "alice")
    desktop.bounds = {"resource": stack.file.connections["crm"].resource}
    assert (await refusal_of(stack, mcp_auth(stack, desktop, Memory())))["reason_code"] == "target_not_allowed"
    desktop.bounds = {"scope": "note.write"}
    assert (await refusal_of(stack, mcp_auth(stack, desktop, Memory())))["reason_code"] == "scope_not_grantable"


async def test_somebody_whom_policy_does_not_know_gets_no_token_through_mcp_either(stack: Stack) -> None:
    body = await refusal_of(stack, mcp_auth(stack, Desktop(stack, "carol"), Memory()))
    assert (body["error"], body["reason_code"]) == ("invalid_authorization_details", "policy_denied")


async def test_an_mcp_client_that_wants_to_act_as_itself_is_refused(stack: Stack) -> None:
    """`client_credentials` has no user: the broker offers no such grant, whoever signs."""
    key = jwt.PyJWK(private_key(stack, "sales-assistant")).key
    signing = SignedJWTParameters(
        issuer="sales-assistant", subject="sales-assistant", signing_key=pem(key), signing_algorithm="ES256"
    )
    auth = PrivateKeyJWTOAuthProvider(
        server_url=f"{stack.file.services['notes'].url}/mcp",
        storage=Memory(),
        client_id="sales-assistant",
        assertion_provider=signing.create_assertion_provider(),
        issuer=stack.file.issuer,
    )
    body = await refusal_of(stack, auth)
    assert (body["error"], body["reason_code"]) == ("unsupported_grant_type", "grant_type_unknown")

"""Connections (one configured downstream system) and providers (the kind of system and its OAuth quirks)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from cab.domain.configured.actions import Action, ScopeToken
from cab.domain.configured.calls import McpCall
from cab.domain.configured.model import StrictModel
from cab.domain.configured.provider_parameters import (
    ParameterName,
    ProviderParameter,
    filled,
    placeholders,
    template_mistake,
    text_mistake,
)
from cab.domain.configured.scope_names import ScopeNames

ConnectionId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}\Z")]
ClaimPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,4}\Z")]
# Of the authorization request; what replaces all of it (RFC 9101), and what no browser may carry.
_MADE_BY_THE_BROKER = frozenset(
    {
        *("response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method"),
        *("request", "request_uri", "client_secret", "client_assertion", "code_verifier"),
    }
)
IdleDays = Annotated[int, Field(ge=7, le=3_650)]
SecretId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,255}\Z")]


_OPTION: Final = "exchange_options."


class SecretReference(StrictModel):
    """A Secret Manager version, always by number: `latest` is only eventually consistent."""

    secret: SecretId = Field(description="Name in Secret Manager.")
    version: int = Field(default=1, ge=1, description="Number of the version.")


class GrantKind(StrEnum):
    AUTHORIZATION_CODE = "authorization_code"
    JWT_BEARER = "jwt_bearer"
    TOKEN_EXCHANGE = "token_exchange"
    ID_JAG = "id_jag"
    BROKER_JWT = "broker_jwt"

    @property
    def is_trusted(self) -> bool:
        """Whether the organisation's trust stands in for a user's consent: no refresh token, nothing in the vault."""
        return self in (GrantKind.JWT_BEARER, GrantKind.TOKEN_EXCHANGE, GrantKind.ID_JAG)

    @property
    def sts_vouches(self) -> bool:
        """Whether a JWT of the broker's own STS names the user: exchange_token signs it, refresh_grants presents it."""
        return self in (GrantKind.TOKEN_EXCHANGE, GrantKind.ID_JAG)

    @property
    def serves_mapped_users_only(self) -> bool:
        """Whether nobody is named to the system whom `user_map` does not list: it may know any name, or make an account."""
        return self in (GrantKind.JWT_BEARER, GrantKind.ID_JAG)


class RotationClass(StrEnum):
    """What happens to a refresh token when it is used. An unknown provider is STRICT until its profile says otherwise."""

    STATIC = "static"
    LEEWAY = "leeway"
    STRICT = "strict"


class Rotation(StrictModel):
    rotation_class: RotationClass = Field(
        default=RotationClass.STRICT, alias="class", description="What using a refresh token does to it."
    )
    leeway_s: int = Field(default=0, ge=0, le=86_400, description="How long a used refresh token still works.")
    reuse_revokes_family: bool = Field(
        default=True, description="Whether sending a used refresh token ends the whole grant."
    )
    old_access_token: Literal["lives_on", "dies_at_once", "dies_after_leeway", "unknown"] = Field(
        default="unknown", description="What a refresh does to the access token before it."
    )

    @model_validator(mode="after")
    def _leeway_has_a_length(self) -> Rotation:
        if (self.rotation_class is RotationClass.LEEWAY) != (self.leeway_s > 0):
            raise ValueError("leeway_s belongs to class leeway, and must be positive there")
        return self


class Revocation(StrictModel):
    endpoint: str | None = Field(default=None, description="RFC 7009 endpoint, when there is one.")
    blast_radius: Literal["token", "grant", "user", "unknown"] = Field(
        default="unknown",
        description="What one revocation ends. `user` means every grant of that user: never used automatically.",
    )


class NarrowingRequest(StrictModel):
    """What narrowing: token_exchange sends beside the token and the scopes, where providers differ (RFC 8693 section 2.1)."""

    client_authentication: bool = Field(
        default=True, description="Whether the client authenticates; without it the token speaks for itself."
    )
    resource: bool = Field(
        default=False, description="Whether the connection's `resource` is named; at MCP servers it always is."
    )


class Provider(StrictModel):
    """A kind of downstream system: facts as data, no code per provider."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}\Z")] = Field(
        description="What connections call it."
    )
    title: str = Field(min_length=1, max_length=80, description="What people read.")
    parameters: dict[ParameterName, ProviderParameter] = Field(
        default_factory=dict,
        description="What `{name}` in the addresses below stands for; each connection gives the values.",
    )
    issuer: str | None = Field(
        default=None,
        description="Authorization server issuer, compared with `iss` (RFC 9207); id_jag: `aud` of the ID-JAGs.",
    )
    iss_parameter: Literal["required", "optional", "unknown"] = Field(
        default="unknown", description="RFC 9207 support."
    )
    authorization_endpoint: str | None = Field(default=None, description="Where the user's browser is sent.")
    token_endpoint: str | None = Field(default=None, description="Where codes and refresh tokens are redeemed.")
    userinfo_endpoint: str | None = Field(default=None, description="Answers JSON that names the upstream account.")
    account_claim: ClaimPath = Field(
        default="sub",
        description="Member of the token answer or userinfo that names the upstream account; dots lead into objects.",
    )
    account_name_claim: ClaimPath | None = Field(
        default=None,
        description="Member by which people know that account. Default: the first of email, preferred_username, login, "
        "username and name at the userinfo endpoint.",
    )
    token_request_format: Literal["form", "json"] = Field(
        default="form", description="How requests to the token and revocation endpoints are encoded."
    )
    token_endpoint_auth_method: Literal["client_secret_basic", "client_secret_post", "none"] = Field(
        default="client_secret_basic", description="How the broker authenticates there."
    )
    grant_kinds: tuple[GrantKind, ...] = Field(
        default=(GrantKind.AUTHORIZATION_CODE,), description="What connections to it may use."
    )
    base_scopes: tuple[ScopeToken, ...] = Field(
        default=(), description="Asked for at every connect, e.g. offline_access."
    )
    assertion_audience: str | None = Field(
        default=None, description="jwt_bearer: `aud` of the broker's assertions. Default: the token endpoint."
    )
    assertion_scope: Literal["parameter", "claim", "none"] = Field(
        default="parameter",
        description="jwt_bearer: where scopes are asked for. `none`: nowhere, so tokens cannot be narrowed.",
    )
    exchange_audience: str | None = Field(
        default=None, description="token_exchange: `audience` of the request (RFC 8693 section 2.1)."
    )
    exchange_options: dict[str, str] = Field(
        default_factory=dict, description="token_exchange: members of Google's `options` parameter, e.g. userProject."
    )
    subject_token_audience: str | None = Field(
        default=None,
        description="token_exchange: `aud` of the JWT that names the user there, the client id under which it knows the broker.",
    )
    subject_token_type: Literal["jwt", "id_token"] = Field(
        default="jwt", description="token_exchange: what that JWT is called in the request (RFC 8693 section 3)."
    )
    scope_separator: Literal[" ", ","] = Field(default=" ", description="Between scopes in requests and answers.")
    scope_names: ScopeNames = Field(
        default=ScopeNames(), description="Where its scopes go by several names, or include others."
    )
    scope_claim: ClaimPath = Field(
        default="scope",
        description="Member of the token answer that lists the granted scopes where `scope` does not; "
        "dots lead into objects.",
    )
    authorization_parameters: dict[str, str] = Field(
        default_factory=dict,
        description="Extra parameters of the authorization request, beside those that the broker makes itself.",
    )
    pkce: Literal["supported", "unsupported", "unknown"] = Field(
        default="unknown",
        description="Whether it checks PKCE. S256 is sent unless it is `unsupported`: some refuse what they do not know.",
    )
    rotation: Rotation = Field(default=Rotation(), description="How refresh tokens behave.")
    access_token_lifetime_s: int | None = Field(
        default=None, ge=30, description="Used when the answer has no expires_in; none means unknown."
    )
    refresh_margin_s: int = Field(
        default=60,
        ge=0,
        le=3600,
        description="A token with less life than this is refreshed before it is handed out.",
    )
    keepalive_s: int | None = Field(
        default=None,
        ge=3600,
        description="Refresh a grant that lay unused this long, or up to a tenth less, before its refresh token idles out.",
    )
    narrowing: Literal["scope_at_refresh", "token_exchange", "on_behalf_of", "none"] = Field(
        default="none",
        description="How a grant's token becomes one with the scopes of an action: a refresh asks for fewer (RFC 6749 "
        "section 6), the access token is exchanged for a smaller one (RFC 8693), or it is the assertion of Microsoft "
        "Entra's on-behalf-of flow.",
    )
    narrowing_request: NarrowingRequest = Field(
        default=NarrowingRequest(), description="What `narrowing: token_exchange` sends."
    )
    revocation: Revocation = Field(default=Revocation(), description="How a grant is ended there.")
    invalid_grant_errors: tuple[str, ...] = Field(
        default=("invalid_grant",), description="Error codes that say a refresh token is dead."
    )
    invalid_grant_statuses: tuple[Annotated[int, Field(ge=400, le=499)], ...] = Field(
        default=(400,), description="HTTP statuses that carry a real invalid_grant. From 500 on a server is in trouble."
    )
    error_in_200: bool = Field(default=False, description="Whether HTTP 200 may carry an error body.")

    @model_validator(mode="after")
    def _authorization_parameters_are_extra(self) -> Provider:
        for name, value in self.authorization_parameters.items():
            if name in _MADE_BY_THE_BROKER or not name:
                raise ValueError(f"authorization_parameters cannot set `{name}`: the broker makes that itself")
            if name == "response_mode" and value != "query":
                raise ValueError("authorization_parameters cannot set another response_mode than query")
            if name == "prompt" and value == "none":
                raise ValueError("authorization_parameters cannot ask for prompt=none: nobody could agree")
        return self

    @model_validator(mode="after")
    def _addresses_can_be_filled(self) -> Provider:
        for name, address in self._addresses().items():
            if mistake := template_mistake(address, self.parameters):
                raise ValueError(f"{name} {mistake}")
        for name, text in self._texts().items():
            if mistake := text_mistake(text, self.parameters):
                raise ValueError(f"{name} {mistake}")
        return self

    @property
    def narrows_by_exchange(self) -> bool:
        """Whether narrow tokens are made from a wide one, which then never leaves refresh_grants."""
        return self.narrowing in ("token_exchange", "on_behalf_of")

    @property
    def narrows_at_refresh(self) -> bool:
        """Whether a refresh is asked for fewer scopes. Not where it would end the tokens of other actions on the spot."""
        return self.narrowing == "scope_at_refresh" and self.rotation.old_access_token != "dies_at_once"

    @property
    def open_parameters(self) -> dict[str, ProviderParameter]:
        """The parameters that addresses and names use, in their order of appearance."""
        templates = (*self._addresses().values(), *self._texts().values())
        names = [name for template in templates for name in placeholders(template)]
        return {name: self.parameters[name] for name in names}

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses that the broker itself sends requests to; the user's browser goes to the authorization endpoint."""
        found = (self.token_endpoint, self.userinfo_endpoint, self.revocation.endpoint)
        return tuple(address for address in found if address is not None)

    def at(self, values: Mapping[str, str]) -> Provider:
        """This provider with its addresses and names filled in. Raises: KeyError when a value is missing; checked at start."""
        parameters = self.open_parameters
        if not parameters:
            return self
        known = {name: item.default for name, item in parameters.items() if item.default is not None} | dict(values)
        addresses = {name: filled(address, known) for name, address in self._addresses().items()}
        revocation = self.revocation.model_copy(update={"endpoint": addresses.pop("revocation", None)})
        texts = {name: filled(text, known) for name, text in self._texts().items()}
        options = {name: texts.pop(f"{_OPTION}{name}") for name in self.exchange_options}
        return self.model_copy(
            update={**addresses, **texts, "exchange_options": options, "revocation": revocation, "parameters": {}}
        )

    def _addresses(self) -> dict[str, str]:
        found = {
            "issuer": self.issuer,
            "authorization_endpoint": self.authorization_endpoint,
            "token_endpoint": self.token_endpoint,
            "userinfo_endpoint": self.userinfo_endpoint,
            "revocation": self.revocation.endpoint,
        }
        return {name: address for name, address in found.items() if address is not None}

    def _texts(self) -> dict[str, str]:
        """Names in requests that may hold parameters too. Nothing is ever sent to them."""
        found = {
            "assertion_audience": self.assertion_audience,
            "exchange_audience": self.exchange_audience,
            "subject_token_audience": self.subject_token_audience,
        }
        options = {f"{_OPTION}{name}": text for name, text in self.exchange_options.items()}
        return {name: text for name, text in found.items() if text is not None} | options


class McpServer(StrictModel):
    """A system whose actions are tools of an MCP server. The broker is its client, with the user's own token for it."""

    endpoint: str = Field(description="Address of its streamable HTTP endpoint.")
    protocol: Literal["2026-07-28", "2025-11-25"] = Field(
        description="Revision of the protocol that is spoken there; none is tried out."
    )
    elicitation_hosts: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]{1,253}(:[0-9]{1,5})?\Z")], ...] = (
        Field(
            default=(), description="Hosts whose pages it may ask the user to open; all else that it asks is refused."
        )
    )


class Connection(StrictModel):
    """One configured downstream system of the deployment."""

    id: ConnectionId = Field(description="Also the `audience` that agents ask for.")
    title: str = Field(min_length=1, max_length=80, description="What people read.")
    provider: str = Field(description="A shipped provider or one of this file.")
    provider_parameters: dict[ParameterName, str] = Field(
        default_factory=dict, description="Values for the provider's `parameters`, e.g. the name of your instance."
    )
    resource: str = Field(description="Registered resource URI (RFC 8707), compared exactly.")
    api_base: str | None = Field(default=None, description="Where tools call the API; default: the resource.")
    mcp: McpServer | None = Field(default=None, description="When its actions are tools of an MCP server: which.")
    tenants: tuple[str, ...] = Field(min_length=1, description="Whose users may use it.")
    trust_zone: str | None = Field(
        default=None, description="One of trust_zones in broker.yaml, whose bounds then hold here for every agent."
    )
    grant_kind: GrantKind = Field(
        default=GrantKind.AUTHORIZATION_CODE, description="How the broker comes to act for a user there."
    )
    client_id: str | None = Field(default=None, min_length=1, description="The broker's client at the provider.")
    client_secret: SecretReference | None = Field(default=None, description="Its secret, by name.")
    assertion_key: SecretReference | None = Field(
        default=None, description="jwt_bearer: the private JWK (ES256 or RS256) that signs the assertions, by name."
    )
    user_map: dict[str, str] = Field(
        default_factory=dict,
        description="jwt_bearer, token_exchange, id_jag and broker_jwt: subject key to the user name this system knows, "
        "explicit.",
    )
    connect_scopes: tuple[ScopeToken, ...] = Field(
        default=(),
        description="What the user consents to, where that is not the actions' scopes: with narrowing token_exchange "
        "the scopes that theirs are made from, with on_behalf_of those of the broker's own API.",
    )
    allow_unnarrowed: bool = Field(
        default=False,
        description="Whether a token with all of the grant's scopes may be handed out where the provider cannot narrow.",
    )
    records_each_read: bool = Field(
        default=False,
        description="Whether every hand-out of a token for a read is recorded, for the user's page and for introspection by the "
        "agent: a Firestore write each. Else the first for an action in a task, and again after five minutes.",
    )
    records_each_write: bool = Field(
        default=True,
        description="The same for what changes data: US$ 1.00 a million. Where false, the user's page says of the first that more "
        "may have followed. What deletes data, and what the user confirmed, is recorded each time.",
    )
    grant_idle_days: IdleDays | None = Field(
        default=None,
        description="authorization_code: after how many days without a use a user's grant ends; none: never, unless the tenant says so.",
    )
    actions: tuple[Action, ...] = Field(min_length=1, description="The catalog: everything tools can do here.")

    @model_validator(mode="after")
    def _is_consistent(self) -> Connection:
        if self.grant_kind is GrantKind.AUTHORIZATION_CODE and self.client_id is None:
            raise ValueError("an authorization_code connection needs a client_id")
        if self.grant_idle_days is not None and self.grant_kind is not GrantKind.AUTHORIZATION_CODE:
            raise ValueError("grant_idle_days is for authorization_code: no user could bring such a grant back")
        if "#" in self.resource or "?" in self.resource:
            raise ValueError("resource must have neither fragment nor query (RFC 8707)")
        for action in self.actions:
            if action.call is not None and isinstance(action.call, McpCall) != (self.mcp is not None):
                wanted = "needs `tool`, as of every connection with mcp" if self.mcp else "needs a connection with mcp"
                raise ValueError(f"the call of {action.id} {wanted}")
        if self.mcp is not None and self.api_base is not None:
            raise ValueError("a connection with mcp has no api_base: its tools are called at mcp.endpoint")
        if self.mcp is not None and _origin(self.mcp.endpoint) != _origin(self.resource):
            raise ValueError("mcp.endpoint must be at the resource's own origin: the user's token is for that")
        return self

    @property
    def called_at(self) -> str:
        """The address under which the broker's own calls are made."""
        return self.mcp.endpoint if self.mcp is not None else self.api_base or self.resource

    @property
    def token_resource(self) -> dict[str, str]:
        """`resource` of every request that leads to a token there (RFC 8707), which MCP requires and others may refuse."""
        return {} if self.mcp is None else {"resource": self.resource}

    @cached_property
    def action_by_id(self) -> dict[str, Action]:
        return {action.id: action for action in self.actions}

    @property
    def api_host(self) -> str:
        """Host of its API, without a port; empty when there is none to read."""
        try:
            return urlsplit(self.called_at).hostname or ""
        except ValueError:
            return ""

    @cached_property
    def all_scopes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(scope for action in self.actions for scope in action.scopes))

    def subject_of(self, name: str) -> str | None:
        """Our key of the user whom this system knows by `name`; None where it knows several by it."""
        known = [key for key, mapped in self.user_map.items() if mapped == name]
        return name if not known else known[0] if len(known) == 1 else None

    @property
    def consent_scopes(self) -> tuple[str, ...]:
        """What the authorization request asks for, beside the provider's base scopes."""
        return self.connect_scopes or self.all_scopes

    def needed_of_grant(self, scopes: tuple[str, ...]) -> tuple[str, ...]:
        """Which scopes the grant's own token must have for a token with these: none of them where consent is to others."""
        return () if self.connect_scopes else scopes


def _origin(url: str) -> str:
    return "://".join(urlsplit(url)[:2]).lower()

"""Who may call: front ends (they mint assertions for their logged-in users) and agents (they exchange them)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from cab.domain.configured.actions import Effect, ParameterValue, ScopeToken
from cab.domain.configured.connections import SecretReference
from cab.domain.configured.model import StrictModel
from cab.domain.identifiers import CLIENT_ID
from cab.domain.tasks import Pattern

DEFAULT_ZONE = "internal"
Mode = Literal["token", "call", "both"]
Zone = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}\Z")]
ClientId = Annotated[str, StringConstraints(pattern=f"^{CLIENT_ID.pattern}\\Z")]


class PrivateKeyJwt(StrictModel):
    """RFC 7523 section 2.2. Keys by URL (preferred: rotation without a deployment) or inline. Each assertion works once, which is a
    document written for each request: US$ 1.00 a million."""

    method: Literal["private_key_jwt"]
    jwks_uri: str | None = Field(default=None, description="Where the client's public keys are.")
    jwks: dict[str, Any] | None = Field(default=None, description="The public keys themselves (RFC 7517).")
    algorithms: tuple[Literal["ES256", "RS256"], ...] = Field(default=("ES256",), description="Accepted signatures.")
    audience_compatibility: bool = Field(
        default=False,
        description="Also accept the endpoint URL as audience, an audience alone in an array, and a life up to 3600 s, "
        "for older client libraries.",
    )

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> PrivateKeyJwt:
        if (self.jwks_uri is None) == (self.jwks is None):
            raise ValueError("give exactly one of jwks_uri and jwks")
        return self


class FederatedJwt(StrictModel):
    """A JWT of another issuer as client assertion (RFC 7521 section 5.2): a Google service identity, SPIFFE, Kubernetes. It works until
    it ends, at most an hour, and nothing is written for it."""

    method: Literal["federated_jwt"]
    issuer: str = Field(description="One of federated_issuers in broker.yaml, or https://accounts.google.com.")
    subject: str = Field(description="`sub` of its JWTs.")


class ClientSecretBasic(StrictModel):
    """In the Authorization header (RFC 6749 section 2.3.1), only where the entry allows it. The secret lives in Secret Manager."""

    method: Literal["client_secret_basic"]
    secret: SecretReference = Field(description="Its secret, by name.")


class ClientSecretPost(StrictModel):
    """In the form (RFC 6749 section 2.3.1), for clients that can do nothing else: bodies are logged more often than headers."""

    method: Literal["client_secret_post"]
    secret: SecretReference = Field(description="Its secret, by name.")


# By their registered names (RFC 7591 section 2). A FederatedJwt is a client assertion too, signed by another issuer.
REGISTERED_METHODS: Final = ("private_key_jwt", "client_secret_basic", "client_secret_post")
ClientSecret = ClientSecretBasic | ClientSecretPost
Authentication = Annotated[PrivateKeyJwt | FederatedJwt | ClientSecret, Field(discriminator="method")]
SignedAuthentication = Annotated[PrivateKeyJwt | FederatedJwt, Field(discriminator="method")]


def _one_source_each(authentication: tuple[object, ...]) -> None:
    """Keys rotate inside one set, a secret by its version; two of a kind would leave open which of them counts."""
    if sum(isinstance(method, PrivateKeyJwt) for method in authentication) > 1:
        raise ValueError("give private_key_jwt once: rotate keys inside its key set")
    for kind in (ClientSecretBasic, ClientSecretPost):
        if sum(isinstance(method, kind) for method in authentication) > 1:
            raise ValueError("give each way of sending a secret once")


class FrontEnd(StrictModel):
    """An application's server that logs users in at the IdP and mints assertions for them."""

    client_id: ClientId = Field(description="Its name at the edge endpoint.")
    tenant: str = Field(description="Where its users belong.")
    identity_provider: str = Field(description="Issuer of the ID tokens it presents.")
    idp_client_id: str = Field(
        min_length=1, description="The client registered at the IdP for this front end: aud or azp of its ID tokens."
    )
    authentication: tuple[SignedAuthentication, ...] = Field(min_length=1, description="Any one of these.")
    agents: tuple[ClientId, ...] = Field(min_length=1, description="Who its assertions may name in may_act.")
    default_agent: ClientId | None = Field(default=None, description="may_act of a request that names none.")

    @model_validator(mode="after")
    def _default_is_listed(self) -> FrontEnd:
        _one_source_each(self.authentication)
        if self.default_agent is not None and self.default_agent not in self.agents:
            raise ValueError("default_agent must be one of agents")
        return self


class DefaultIntent(StrictModel):
    """The intent of a client that cannot send authorization_details: registered per (agent, resource, scope)."""

    resource: str = Field(description="Of the connection.")
    scope: ScopeToken | None = Field(default=None, description="Of the request; none for a request without scope.")
    action: str = Field(description="What is then declared,")
    identifier: str = Field(description="on what,")
    parameters: dict[str, ParameterValue] = Field(default_factory=dict, description="with which parameters.")


class AgentCalls(StrictModel):
    """How an agent uses call mode."""

    dpop: Literal["optional", "required"] = Field(
        default="optional", description="Whether its call tokens must be bound to a key of its own (RFC 9449)."
    )


class Agent(StrictModel):
    """An agent or tool server: what it may ask for at all, whoever the user is."""

    client_id: ClientId = Field(description="Its name at the token endpoint, in tokens, policies and audit.")
    title: str = Field(min_length=1, max_length=80, description="What people read on approval pages.")
    owner: str | None = Field(
        default=None, min_length=1, max_length=120, description="Whom analysts ask about it: a person or a mailbox."
    )
    team: str | None = Field(default=None, min_length=1, max_length=80, description="Whose it is, for reports.")
    tenant: str = Field(description="Where its users belong.")
    trust_zone: Zone = Field(
        default=DEFAULT_ZONE,
        description="Who runs it, or how far it is trusted, in a word for policies; one of trust_zones in broker.yaml.",
    )
    authentication: tuple[Authentication, ...] = Field(min_length=1, description="Any one of these.")
    actions: tuple[Pattern, ...] = Field(default=(), description="Allow-list over the action catalog.")
    effects: tuple[Effect, ...] = Field(
        default=(Effect.READ, Effect.WRITE, Effect.DESTRUCTIVE), description="Effects it may have at all."
    )
    mode: Mode = Field(
        default="token", description="Whether it gets tokens, or only results of calls that the broker makes, or both."
    )
    call: AgentCalls = Field(default_factory=AgentCalls, description="What its call tokens must be like.")
    task: Literal["optional", "required"] = Field(
        default="optional", description="Whether even reads need a task of the user."
    )
    delegates_to: tuple[ClientId, ...] = Field(default=(), description="Agents it may pass a narrower assertion to.")
    accepts_id_jag: bool = Field(default=False, description="Whether it may use the jwt-bearer grant with an ID-JAG.")
    default_intents: tuple[DefaultIntent, ...] = Field(
        default=(), description="For clients that cannot send authorization_details."
    )
    introspects: tuple[str, ...] = Field(
        default=(), description="Resources whose tokens it may introspect as their resource server."
    )
    reports_as: tuple[str, ...] = Field(
        default=(),
        description="Resources of which it may report, as their resource server, what came of the tokens made for them. "
        "Its word goes before the agent's.",
    )

    @model_validator(mode="after")
    def _keys_are_in_one_place(self) -> Agent:
        _one_source_each(self.authentication)
        return self

"""Who may call: front ends (they mint assertions for their logged-in users) and agents (they exchange them)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from cab.domain.actions import Effect, ScopeToken, StrictModel
from cab.domain.connections import SecretReference
from cab.domain.identifiers import CLIENT_ID
from cab.domain.tasks import Pattern

ClientId = Annotated[str, StringConstraints(pattern=f"^{CLIENT_ID.pattern}\\Z")]


class PrivateKeyJwt(StrictModel):
    """RFC 7523 section 2.2. Keys by URL (preferred: rotation without a deployment) or inline."""

    method: Literal["private_key_jwt"]
    jwks_uri: str | None = None
    jwks: dict[str, Any] | None = None
    algorithms: tuple[Literal["ES256", "RS256"], ...] = ("ES256",)
    audience_compatibility: bool = Field(
        default=False,
        description="Also accept the endpoint URL as audience and a life up to 3600 s, for older client libraries.",
    )

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> PrivateKeyJwt:
        if (self.jwks_uri is None) == (self.jwks is None):
            raise ValueError("give exactly one of jwks_uri and jwks")
        return self


class FederatedJwt(StrictModel):
    """A JWT of another issuer as client assertion (RFC 7521 section 5.2): a Google service identity, SPIFFE, Kubernetes."""

    method: Literal["federated_jwt"]
    issuer: str
    subject: str


class ClientSecretBasic(StrictModel):
    """RFC 6749 section 2.3.1; only where the entry allows it. The secret lives in Secret Manager."""

    method: Literal["client_secret_basic"]
    secret: SecretReference


Authentication = Annotated[PrivateKeyJwt | FederatedJwt | ClientSecretBasic, Field(discriminator="method")]
SignedAuthentication = Annotated[PrivateKeyJwt | FederatedJwt, Field(discriminator="method")]


class FrontEnd(StrictModel):
    """An application's server that logs users in at the IdP and mints assertions for them."""

    client_id: ClientId
    tenant: str
    identity_provider: str = Field(description="Issuer of the ID tokens it presents.")
    idp_client_id: str = Field(
        description="The client registered at the IdP for this front end: aud or azp of its ID tokens."
    )
    authentication: tuple[SignedAuthentication, ...] = Field(min_length=1)
    agents: tuple[ClientId, ...] = Field(min_length=1, description="Who its assertions may name in may_act.")
    default_agent: ClientId | None = None

    @model_validator(mode="after")
    def _default_is_listed(self) -> FrontEnd:
        if self.default_agent is not None and self.default_agent not in self.agents:
            raise ValueError("default_agent must be one of agents")
        return self


class DefaultIntent(StrictModel):
    """The intent of a client that cannot send authorization_details: registered per (agent, resource, scope)."""

    resource: str
    scope: ScopeToken | None = None
    action: str
    identifier: str
    parameters: dict[str, str | int | bool] = Field(default_factory=dict)


class Agent(StrictModel):
    """An agent or tool server: what it may ask for at all, whoever the user is."""

    client_id: ClientId
    title: str = Field(min_length=1, max_length=80)
    tenant: str
    trust_zone: str = Field(default="internal", pattern=r"^[a-z][a-z0-9-]{0,39}\Z")
    authentication: tuple[Authentication, ...] = Field(min_length=1)
    actions: tuple[Pattern, ...] = Field(default=(), description="Allow-list over the action catalog.")
    effects: tuple[Effect, ...] = Field(default=(Effect.READ, Effect.WRITE, Effect.DESTRUCTIVE))
    mode: Literal["token", "call"] = "token"
    task: Literal["optional", "required"] = "optional"
    delegates_to: tuple[ClientId, ...] = ()
    accepts_id_jag: bool = Field(default=False, description="Whether it may use the jwt-bearer grant with an ID-JAG.")
    default_intents: tuple[DefaultIntent, ...] = ()
    introspects: tuple[str, ...] = Field(
        default=(), description="Resources whose tokens it may introspect as their resource server."
    )

"""A deployment's configuration as one immutable value: what `examples/acme/` describes in files.

Reading and checking the files is `cab.adapters.configuration`; the models here are the single definition of their content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from cab.domain.configured.actions import Action, Effect, ScopeToken
from cab.domain.configured.clients import DEFAULT_ZONE, Agent, FrontEnd, Mode, Zone
from cab.domain.configured.connections import Connection, GrantKind, IdleDays, Provider, SecretReference
from cab.domain.configured.model import StrictModel
from cab.domain.grants import Storage
from cab.domain.tasks import Pattern
from cab.domain.text.patterns import covers

VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,63}\Z")]
Instant = Annotated[
    str, StringConstraints(pattern=r"^\d{4}-(0[1-9]|1[0-2])-([0-2]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\dZ\Z")
]
HostName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.:-]{0,251}[a-z0-9])?\Z")]


class Tenant(StrictModel):
    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}\Z")] = Field(
        description="Part of every subject key: renaming a tenant gives every user a new identity."
    )
    title: str = Field(min_length=1, max_length=80, description="What people read.")
    grant_idle_days: IdleDays | None = Field(
        default=None,
        description="After how many days without a use a user's grant ends; none: never. Where its connection says so too, "
        "the shorter time holds.",
    )


class RateLimit(StrictModel):
    """At most `limit` counted requests in each fixed window of `window_s` for each user and agent, over all actions that the
    entry names. Windows begin at whole multiples of their length since 1970: around the end of one, up to twice the limit may
    pass within `window_s`."""

    effects: tuple[Effect, ...] = Field(default=(), description="Counts all actions of these effects.")
    actions: tuple[Pattern, ...] = Field(
        default=(), description="Instead of effects: counts these actions, by id or pattern."
    )
    limit: int = Field(ge=1, le=1_000_000, description="Counted requests in one window.")
    window_s: int = Field(ge=1, le=86_400, description="Length of a window in seconds. Windows are fixed, not sliding.")

    @model_validator(mode="after")
    def _names_one_kind(self) -> RateLimit:
        if bool(self.effects) == bool(self.actions):
            raise ValueError("give exactly one of effects and actions")
        return self


def limit_of(limits: tuple[RateLimit, ...], action: Action) -> tuple[int, RateLimit] | None:
    """The one limit that counts an action, and its position: a request is counted once, by the entry that names it most closely.

    An id before any pattern, a longer pattern before a shorter one, any of them before an effect.
    """
    found: tuple[tuple[bool, int], int, RateLimit] | None = None
    for position, limit in enumerate(limits):
        ranks = [(not pattern.endswith("*"), len(pattern)) for pattern in limit.actions if covers(pattern, action.id)]
        if action.effect in limit.effects:
            ranks.append((False, 0))
        if ranks and (found is None or max(ranks) > found[0]):
            found = max(ranks), position, limit
    return None if found is None else (found[1], found[2])


class Lifetimes(StrictModel):
    assertion_s: int = Field(default=300, ge=60, le=300, description="Edge assertions; never past the ID token.")
    token_s: int = Field(
        default=300, ge=240, le=3600, description="Broker JWTs; a common client treats 225 s left as expired."
    )
    approval_wait_s: int = Field(default=600, ge=60, le=600, description="How long a request for confirmation waits.")
    approval_valid_s: int = Field(default=300, ge=30, le=300, description="How long a given confirmation can be used.")
    fresh_login_s: int = Field(default=300, ge=30, le=3600, description="Oldest login that may approve.")
    session_s: int = Field(default=3600, ge=300, le=43_200, description="Browser sessions on the pages of the broker.")
    deferral_interval_s: int = Field(default=2, ge=1, le=60, description="Shortest pause between two polls.")


class FederatedIssuer(StrictModel):
    """An issuer whose JWTs authenticate clients (never users)."""

    issuer: str = Field(description="`iss` of its JWTs, compared byte for byte.")
    jwks_uri: str = Field(description="Where its public keys are.")
    algorithms: tuple[Literal["RS256", "ES256"], ...] = Field(default=("RS256",), description="Accepted signatures.")


class TrustZone(StrictModel):
    """What holds for all agents and all connections of one zone, whatever else their entries say."""

    id: Zone = Field(description="The word that agents, connections and policies use.")
    mode: Mode = Field(
        default="both",
        description="`call`: its agents hold no tokens of any system, and its systems' tokens are handed to no agent.",
    )
    hosts: tuple[HostName, ...] = Field(
        default=(),
        description="The only hosts whose APIs its agents may reach, and its connections may have; none: any configured one.",
    )


class Broker(StrictModel):
    """broker.yaml"""

    origin: str = Field(description="Public URL of the broker, no trailing slash. Issuers derive from it.")
    environment_variables: tuple[VariableName, ...] = Field(
        default=(), description="What ${NAME} may refer to in these files."
    )
    allow_loopback_http: bool = Field(
        default=False, description="Local development only; start fails in the cloud when set."
    )
    trust_zones: tuple[Zone | TrustZone, ...] = Field(
        default=(DEFAULT_ZONE,),
        min_length=1,
        description="The zones that agents and connections may be in: words for policies, or entries with bounds.",
    )
    private_hosts: tuple[HostName, ...] = Field(
        default=(),
        description="Hosts of identity providers and connected systems that may have addresses in private networks, each "
        "written exactly as in its URL.",
    )
    tenants: tuple[Tenant, ...] = Field(min_length=1, description="Organisations; nothing crosses from one to another.")
    lifetimes: Lifetimes = Field(default=Lifetimes(), description="How long things live, in seconds.")
    rate_limits: tuple[RateLimit, ...] = Field(default=(), description="An action that no entry names is not limited.")
    grant_status_cache_s: int = Field(
        default=0,
        ge=0,
        le=60,
        description="How long a grant's status may be remembered. Revocation then takes as long; 0 reads it on every exchange.",
    )
    grant_storage: Storage = Field(
        default="secret_per_grant",
        description="One Secret Manager secret per grant, or sealed documents: cheaper from some thousands of grants on.",
    )
    grant_storage_before: Storage | None = Field(
        default=None,
        description="While grants move (`cab grants move`): the grant_storage that they move from. Both are read until all have moved.",
    )
    grant_data_key: int = Field(
        default=1,
        ge=1,
        description="Version of cab-grant-data-key that new payloads of sealed_documents are sealed under.",
    )
    escrow_key: int = Field(
        default=1, ge=1, description="Version of cab-escrow-key under which token sets are put aside from now on."
    )
    federated_issuers: tuple[FederatedIssuer, ...] = Field(
        default=(), description="Whose JWTs may authenticate clients."
    )
    mark_results: bool = Field(
        default=True,
        description="Whether what platforms return is shown to models between two lines that say whose words it is.",
    )

    @model_validator(mode="after")
    def _origin_is_bare(self) -> Broker:
        scheme, _, rest = self.origin.partition("://")
        if scheme not in ("https", "http") or not rest or "/" in rest or "?" in rest or "#" in rest:
            raise ValueError("origin must be scheme://host[:port] with nothing behind it")
        return self

    @model_validator(mode="after")
    def _moves_somewhere(self) -> Broker:
        if self.grant_storage_before == self.grant_storage:
            raise ValueError("grant_storage_before must differ from grant_storage, or be left out")
        return self

    @property
    def sts_issuer(self) -> str:
        return f"{self.origin}/oauth2"

    @property
    def edge_issuer(self) -> str:
        return f"{self.origin}/edge"

    @property
    def calls_resource(self) -> str:
        """What call tokens are for: the audience of the tools that the broker executes itself (RFC 8707)."""
        return f"{self.origin}/mcp"

    def connect_uri(self, connection_id: str) -> str:
        """Where a user connects a system, for the first time or again."""
        return f"{self.origin}/connect?connection={connection_id}"


class BrowserLogin(StrictModel):
    """The broker's own client at the IdP, for the pages people see."""

    client_id: str = Field(min_length=1, description="As registered at the IdP.")
    client_secret: SecretReference = Field(description="Its secret, by name.")
    scopes: tuple[ScopeToken, ...] = Field(
        default=("openid", "profile", "email"), description="Asked for at every login."
    )
    callback: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}\Z")] | None = Field(
        default=None,
        description="Name of a redirect URI that is this provider's alone, ORIGIN/login/callback/NAME, where there are several "
        "providers.",
    )


class SharedSignals(StrictModel):
    """What the provider tells the broker after a login: security event tokens, pushed to `/ssf/events` (SSF 1.0, RFC 8935)."""

    audience: tuple[str, ...] = Field(
        min_length=1,
        max_length=10,
        description="`aud` of its events, as agreed when the stream was made; one is enough.",
    )
    issuer: str | None = Field(
        default=None,
        description="`iss` of its events where that is not the issuer of its ID tokens; then with jwks_uri.",
    )
    jwks_uri: str | None = Field(
        default=None, description="Keys of its events where they are not those of its ID tokens."
    )
    ends_grants: tuple[Literal["account_disabled", "account_purged"], ...] = Field(
        default=("account_purged",),
        description="Which events also end the person's grants at all connections. Logins end with every event.",
    )

    @model_validator(mode="after")
    def _another_issuer_has_its_own_keys(self) -> SharedSignals:
        if self.issuer is not None and self.jwks_uri is None:
            raise ValueError("an issuer of its own needs its jwks_uri")
        return self


class IdentityProvider(StrictModel):
    """One enterprise IdP (any OIDC provider) and the tenant its users belong to."""

    issuer: str = Field(description="`iss` of its ID tokens, compared byte for byte.")
    tenant: str = Field(description="Where its users belong.")
    title: str | None = Field(
        default=None,
        min_length=1,
        max_length=80,
        description="What people read where they choose their login; the tenant's title unless given.",
    )
    jwks_uri: str | None = Field(
        default=None, description="Pinned; otherwise taken from discovery on the issuer's own host."
    )
    algorithms: tuple[Literal["RS256", "ES256"], ...] = Field(
        default=("RS256",), description="Accepted signatures of ID tokens."
    )
    endpoint_origins: tuple[Annotated[str, StringConstraints(pattern=r"^https://[^/?#@]+\Z")], ...] = Field(
        default=(),
        description="Other origins where its discovery document may place login endpoints; its own is always allowed.",
    )
    subject_claim: str = Field(
        default="sub",
        min_length=1,
        description="Claim that tells users apart, e.g. oid where sub differs between registrations. Changing it gives every "
        "user a new identity. Dots lead into objects, as in groups_claim.",
    )
    groups_claim: str = Field(
        default="groups",
        min_length=1,
        description="Claim that lists the user's groups; dots lead into objects (realm_access.roles) where no claim has "
        "the whole name.",
    )
    id_token_max_life_s: int = Field(
        default=86_400,
        ge=60,
        le=2_592_000,
        description="Longest life, from iat to exp, of an ID token that is accepted.",
    )
    groups: dict[Annotated[str, StringConstraints(min_length=1)], str] = Field(
        default_factory=dict, description="IdP group value to the group name policies use.", max_length=100
    )
    login: BrowserLogin = Field(description="How people log in on the pages of the broker.")
    id_jag: bool = Field(default=False, description="Whether ID-JAGs of this IdP are accepted by the jwt-bearer grant.")
    shared_signals: SharedSignals | None = Field(
        default=None, description="Take its word that a login is over or an account closed. Costs one read a request."
    )
    access_until: Instant | None = Field(
        default=None,
        description="When the rights of all its people end, as 2027-06-30T22:00:00Z: for partners and other guests.",
    )
    access_until_claim: str | None = Field(
        default=None,
        min_length=1,
        description="Claim that says of one person when their rights end: seconds since 1970, an instant, or the last day (UTC). "
        "Who has none stays. Dots lead into objects, as in groups_claim.",
    )

    @property
    def access_ends_at(self) -> datetime | None:
        return None if self.access_until is None else datetime.fromisoformat(self.access_until)


def signals_source(provider: IdentityProvider) -> str:
    """What the keys of a provider's security events are known by."""
    own = provider.shared_signals is not None and provider.shared_signals.jwks_uri is not None
    return f"security events of {provider.issuer}" if own else provider.issuer


@dataclass(frozen=True)
class Deployment:
    """Everything configured, indexed. `policy_version` is the digest of the files before variables were filled in."""

    broker: Broker
    identity_providers: tuple[IdentityProvider, ...]
    front_ends: tuple[FrontEnd, ...]
    agents: tuple[Agent, ...]
    connections: tuple[Connection, ...]
    provider_by_id: Mapping[str, Provider]
    policies: tuple[tuple[str, str], ...]  # (file name, Cedar text), sorted by name
    policy_version: str
    never_permitted: frozenset[str] = frozenset()  # actions no policy permits to anyone, where that was looked at
    candidate_policies: tuple[tuple[str, str], ...] = ()  # shadow mode: evaluated beside, never enforced

    @cached_property
    def identity_provider_by_issuer(self) -> dict[str, IdentityProvider]:
        return {provider.issuer: provider for provider in self.identity_providers}

    @cached_property
    def front_end_by_id(self) -> dict[str, FrontEnd]:
        return {front_end.client_id: front_end for front_end in self.front_ends}

    @cached_property
    def agent_by_id(self) -> dict[str, Agent]:
        return {agent.client_id: agent for agent in self.agents}

    @cached_property
    def connection_by_id(self) -> dict[str, Connection]:
        return {connection.id: connection for connection in self.connections}

    @cached_property
    def connection_by_resource(self) -> dict[str, Connection]:
        return {connection.resource: connection for connection in self.connections}

    def records_each(self, connection: Connection | None, action: Action | None) -> bool:
        """Whether each hand-out of a token for this action is recorded, and not only the first of several: also of what is configured
        no longer (None).
        """
        if connection is None or action is None or action.effect is Effect.DESTRUCTIVE:
            return True
        chosen = connection.records_each_read if action.effect is Effect.READ else connection.records_each_write
        return chosen or connection.resource in self._introspected

    @cached_property
    def _introspected(self) -> frozenset[str]:
        return frozenset(resource for agent in self.agents for resource in agent.introspects)

    @cached_property
    def zone_by_id(self) -> dict[str, TrustZone]:
        zones = (TrustZone(id=zone) if isinstance(zone, str) else zone for zone in self.broker.trust_zones)
        return {zone.id: zone for zone in zones}

    @cached_property
    def _provider_by_connection(self) -> dict[str, Provider]:
        return {
            connection.id: self.provider_by_id[connection.provider].at(connection.provider_parameters)
            for connection in self.connections
        }

    def provider_of(self, connection: Connection) -> Provider:
        """The connection's provider, its addresses filled with the connection's values."""
        return self._provider_by_connection[connection.id]

    def grants_last_unused(self, connection_id: str, tenant: str) -> timedelta | None:
        """How long a user's grant may lie unused; None: for ever. What the organisation approves does not end so, because
        no user could bring it back."""
        connection = self.connection_by_id.get(connection_id)
        if connection is None or connection.grant_kind is not GrantKind.AUTHORIZATION_CODE:
            return None
        of_tenant = next((it.grant_idle_days for it in self.broker.tenants if it.id == tenant), None)
        days = [it for it in (connection.grant_idle_days, of_tenant) if it is not None]
        return timedelta(days=min(days)) if days else None

    @cached_property
    def grants_that_end_unused(self) -> tuple[tuple[str, str], ...]:
        """(connection, tenant) of all grants that may not lie unused for ever."""
        return tuple(
            (connection.id, tenant)
            for connection in self.connections
            for tenant in connection.tenants
            if self.grants_last_unused(connection.id, tenant) is not None
        )

    @cached_property
    def _bounded_zones(self) -> dict[str, TrustZone]:
        return {name: zone for name, zone in self.zone_by_id.items() if zone.hosts or zone.mode != "both"}

    def zones_allow(self, agent: Agent, connection: Connection, *, calls: bool) -> bool:
        """Whether both zones let this agent reach this API, in this mode."""
        for name in (agent.trust_zone, connection.trust_zone):
            zone = self._bounded_zones.get(name or "")
            if zone is None:
                continue
            if zone.mode not in ("both", "call" if calls else "token"):
                return False
            if zone.hosts and connection.api_host not in zone.hosts:
                return False
        return True

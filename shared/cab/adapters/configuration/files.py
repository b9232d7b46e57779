"""The four YAML files as models. Their parts are defined in `cab.domain`; docs/configuration.md is generated from here."""

from __future__ import annotations

from pydantic import BaseModel, Field

from cab.domain.configured.clients import Agent, FrontEnd
from cab.domain.configured.connections import Connection, Provider
from cab.domain.configured.deployment import Broker, IdentityProvider
from cab.domain.configured.model import StrictModel


class OwnProvider(Provider):
    """A provider of this deployment, from nothing or on top of another one."""

    extends: str | None = Field(
        default=None, description="Id of a shipped provider whose facts apply wherever this entry says nothing."
    )


class IdentityProvidersFile(StrictModel):
    """identity_providers.yaml: who logs users in."""

    identity_providers: tuple[IdentityProvider, ...] = Field(min_length=1)


class AgentsFile(StrictModel):
    """agents.yaml: who may call the broker."""

    front_ends: tuple[FrontEnd, ...] = ()
    agents: tuple[Agent, ...] = ()


class ConnectionsFile(StrictModel):
    """connections.yaml: the downstream systems, what can be done there, and providers that CAB does not ship."""

    providers: tuple[OwnProvider, ...] = ()
    connections: tuple[Connection, ...] = Field(min_length=1)


MODELS: dict[str, type[BaseModel]] = {
    "broker.yaml": Broker,
    "identity_providers.yaml": IdentityProvidersFile,
    "agents.yaml": AgentsFile,
    "connections.yaml": ConnectionsFile,
}

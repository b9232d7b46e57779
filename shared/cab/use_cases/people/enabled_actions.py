"""Which agents can do what through a connection: what a person enables by connecting, in words."""

from __future__ import annotations

from cab.domain.configured.actions import Action, Effect
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.text.patterns import covered_by_any
from cab.values import immutable

_ORDER = (Effect.READ, Effect.WRITE, Effect.DESTRUCTIVE)


@immutable
class EnabledAction:
    """An action with the agents whose allow-list covers it. Policy, task and confirmation bound it further, per request."""

    action: Action
    agents: tuple[Agent, ...]


def enabled_actions(deployment: Deployment, connection: Connection, tenant: str) -> tuple[EnabledAction, ...]:
    """Every action of the connection that an agent of the tenant may ask for and a policy permits to somebody, the harmless ones first."""
    found = (
        EnabledAction(
            action,
            tuple(
                agent
                for agent in deployment.agents
                if agent.tenant == tenant
                and action.effect in agent.effects
                and covered_by_any(agent.actions, action.id)
            ),
        )
        for action in connection.actions
        if action.id not in deployment.never_permitted
    )
    return tuple(sorted((item for item in found if item.agents), key=lambda item: _ORDER.index(item.action.effect)))


def agents_of(enabled: tuple[EnabledAction, ...]) -> tuple[Agent, ...]:
    """The agents among them, each once."""
    return tuple({agent.client_id: agent for item in enabled for agent in item.agents}.values())

"""What was configured, as rows beside the record: names, owners and allow-lists join there.

One row for each deployment that was exported, so that an analyst never sees half of one. The views `agents`, `connections`
and `catalog` show the newest, `policy_versions` all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment
from cab.domain.text.patterns import covered_by_any
from cab.encoding.records import as_json, described

TABLE: Final = "configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    agent_id: str
    title: str
    tenant: str
    owner: str | None = None
    team: str | None = None
    trust_zone: str
    mode: str
    task: str
    actions: list[str] = field(metadata=described("Of the catalog, all that its allow-list and effects cover."))
    delegates_to: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRow:
    connection: str
    title: str
    provider: str | None = None
    grant_kind: str
    host: str | None = None
    tenants: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRow:
    action: str
    title: str
    connection: str
    effect: str
    scopes: list[str]
    identifier: str
    callable: bool = field(metadata=described("Whether the broker can make the call."))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRow:
    exported_at: datetime
    policy_version: str
    commit: str | None = field(default=None, metadata=described("Of the repository that it was deployed from."))
    rules: list[str] = field(metadata=described("Ids of the active policies."))
    agents: list[AgentRow]
    connections: list[ConnectionRow]
    catalog: list[ActionRow]


def configuration_row(
    deployment: Deployment, *, rules: list[str], commit: str | None, at: datetime
) -> ConfigurationRow:
    return ConfigurationRow(
        exported_at=at,
        policy_version=deployment.policy_version,
        commit=commit,
        rules=rules,
        agents=[_agent(agent, deployment) for agent in deployment.agents],
        connections=[
            ConnectionRow(
                connection=item.id,
                title=item.title,
                provider=item.provider,
                grant_kind=item.grant_kind.value,
                host=urlsplit(item.called_at).hostname,
                tenants=list(item.tenants),
            )
            for item in deployment.connections
        ],
        catalog=[
            ActionRow(
                action=action.id,
                title=action.title,
                connection=item.id,
                effect=action.effect.value,
                scopes=list(action.scopes),
                identifier=action.identifier,
                callable=action.call is not None,
            )
            for item in deployment.connections
            for action in item.actions
        ],
    )


def _agent(agent: Agent, deployment: Deployment) -> AgentRow:
    allowed = [
        action.id
        for connection in deployment.connections
        if agent.tenant in connection.tenants
        for action in connection.actions
        if covered_by_any(agent.actions, action.id) and action.effect in agent.effects
    ]
    return AgentRow(
        agent_id=agent.client_id,
        title=agent.title,
        tenant=agent.tenant,
        owner=agent.owner,
        team=agent.team,
        trust_zone=agent.trust_zone,
        mode=agent.mode,
        task=agent.task,
        actions=allowed,
        delegates_to=list(agent.delegates_to),
    )


def write(client: Any, dataset: str, row: ConfigurationRow) -> list[Any]:
    """BigQuery's errors; none when the row is written. Blocking. `client` is a `google.cloud.bigquery.Client`."""
    table = f"{client.project}.{dataset}.{TABLE}"
    document = as_json(row)
    errors: list[Any] = client.insert_rows_json(table, [document], retry=None, timeout=30)
    return errors

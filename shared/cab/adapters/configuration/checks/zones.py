"""Trust zones: that they are declared, that entries keep to their bounds, and that the bounds leave something to use."""

from __future__ import annotations

from cab.adapters.configuration.checks.findings import AGENTS, BROKER, CONNECTIONS, Findings
from cab.adapters.configuration.problems import choose_from
from cab.adapters.configuration.yaml_tree import Place
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.text.patterns import covers


def check_zones(findings: Findings) -> None:
    zones = findings.deployment.zone_by_id
    for position, agent in enumerate(findings.deployment.agents):
        at: Place = ("agents", position)
        if _is_declared(findings, AGENTS, (*at, "trust_zone"), agent.trust_zone):
            zone = zones[agent.trust_zone]
            if zone.mode not in ("both", agent.mode):
                message = f"agents of trust zone `{zone.id}` have mode {zone.mode}, this one {agent.mode}"
                findings.add(AGENTS, (*at, "mode"), message, f"write mode: {zone.mode}", needs=(BROKER,))
            _check_reach(findings, at, agent)
    for position, connection in enumerate(findings.deployment.connections):
        at = ("connections", position)
        if connection.trust_zone and _is_declared(findings, CONNECTIONS, (*at, "trust_zone"), connection.trust_zone):
            hosts = zones[connection.trust_zone].hosts
            if hosts and _is_known(connection) and connection.api_host not in hosts:
                message = f"`{connection.api_host}` is not a host of trust zone `{connection.trust_zone}`"
                remedy = choose_from(
                    connection.api_host, hosts, otherwise="list it under hosts of the zone in broker.yaml"
                )
                findings.add(CONNECTIONS, (*at, "trust_zone"), message, remedy, needs=(BROKER,))


def _is_declared(findings: Findings, file: str, place: Place, zone: str) -> bool:
    zones = findings.deployment.zone_by_id
    if zone not in zones:
        remedy = f"{choose_from(zone, zones, otherwise='')}; or list it under trust_zones in broker.yaml"
        findings.add(file, place, f"trust zone `{zone}` is not declared", remedy, needs=(BROKER,))
    return zone in zones


def _check_reach(findings: Findings, at: Place, agent: Agent) -> None:
    """Patterns of an agent that match actions, all of them where the zones let it do nothing."""
    deployment = findings.deployment
    modes = [calls for calls, mode in ((False, "token"), (True, "call")) if agent.mode in ("both", mode)]
    for position, pattern in enumerate(agent.actions):
        matched = [
            connection
            for connection in deployment.connections
            if any(covers(pattern, action.id) for action in connection.actions)
        ]
        if matched and not any(
            not _is_known(connection) or deployment.zones_allow(agent, connection, calls=calls)
            for connection in matched
            for calls in modes
        ):
            message = f"trust zones keep this agent from everything that `{pattern}` matches"
            remedy = "remove the pattern, or widen mode or hosts of the zone in broker.yaml"
            findings.add(
                AGENTS, (*at, "actions", position), message, remedy, severity="warning", needs=(BROKER, CONNECTIONS)
            )


def _is_known(connection: Connection) -> bool:
    """Hosts of variables that have no value here are told at their declaration."""
    return not connection.api_host.endswith(".invalid")

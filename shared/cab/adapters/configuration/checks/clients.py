"""Cross checks of agents.yaml: who may call, for whom, and whether what they may ask for exists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cab.adapters.configuration.checks.broker import check_url
from cab.adapters.configuration.checks.findings import AGENTS, BROKER, CONNECTIONS, IDENTITY_PROVIDERS, Findings
from cab.adapters.configuration.problems import choose_from
from cab.adapters.configuration.yaml_tree import Place
from cab.domain.configured.actions import Action
from cab.domain.configured.clients import Agent, Authentication, DefaultIntent, FederatedJwt, FrontEnd, PrivateKeyJwt
from cab.domain.configured.connections import Connection, GrantKind
from cab.domain.text.patterns import covered_by_any, covers

GOOGLE_ISSUER = "https://accounts.google.com"  # the platform's own service identities: always known


def check_clients(findings: Findings) -> None:
    deployment = findings.deployment
    front_ends: list[tuple[Place, FrontEnd]] = [
        (("front_ends", position), entry) for position, entry in enumerate(deployment.front_ends)
    ]
    agents: list[tuple[Place, Agent]] = [
        (("agents", position), entry) for position, entry in enumerate(deployment.agents)
    ]
    everyone: list[tuple[Place, FrontEnd | Agent]] = [*front_ends, *agents]
    findings.unique(
        AGENTS,
        (((*at, "client_id"), entry.client_id) for at, entry in everyone),
        "client_id",
        "give every front end and agent a client_id of its own",
    )
    kinds: tuple[list[tuple[Place, FrontEnd | Agent]], ...] = ([*front_ends], [*agents])
    for kind in kinds:
        findings.unique(
            AGENTS,
            _federated_identities(kind),
            "the federated identity",
            "give it to one client only: it could not be told which one calls",
        )
    for at, front_end in front_ends:
        _check_front_end(findings, at, front_end)
    for at, agent in agents:
        _check_agent(findings, at, agent)
    if not deployment.front_ends:
        remedy = "add the application that logs users in: nothing can be minted without one"
        findings.add(AGENTS, (), "there is no front end", remedy, severity="warning")


def _federated_identities(
    entries: Sequence[tuple[Place, FrontEnd | Agent]],
) -> Iterator[tuple[Place, object]]:
    for at, entry in entries:
        for position, method in enumerate(entry.authentication):
            if isinstance(method, FederatedJwt):
                yield (*at, "authentication", position, "subject"), (method.issuer, method.subject)


def _check_authentication(findings: Findings, at: Place, methods: Sequence[Authentication]) -> None:
    known = [issuer.issuer for issuer in findings.deployment.broker.federated_issuers] + [GOOGLE_ISSUER]
    for position, method in enumerate(methods):
        place: Place = (*at, "authentication", position)
        if isinstance(method, PrivateKeyJwt):
            check_url(findings, AGENTS, (*place, "jwks_uri"), method.jwks_uri)
        if isinstance(method, FederatedJwt) and method.issuer not in known:
            findings.add(
                AGENTS,
                (*place, "issuer"),
                "the issuer is not in federated_issuers of broker.yaml",
                choose_from(method.issuer, known, otherwise="add it there"),
                needs=(BROKER,),
            )


def _check_agent_reference(findings: Findings, place: Place, client_id: str, tenant: str) -> None:
    agent = findings.deployment.agent_by_id.get(client_id)
    if agent is None:
        remedy = choose_from(client_id, findings.deployment.agent_by_id, otherwise="add the agent")
        findings.add(AGENTS, place, f"there is no agent `{client_id}`", remedy)
    elif findings.apart(agent.tenant, tenant):
        remedy = "name an agent of the same tenant: nothing crosses tenants"
        findings.add(AGENTS, place, f"agent `{client_id}` belongs to tenant `{agent.tenant}`", remedy)


def _is_in(findings: Findings, tenant: str, connection: Connection) -> bool:
    return any(not findings.apart(tenant, other) for other in connection.tenants)


def _check_front_end(findings: Findings, at: Place, front_end: FrontEnd) -> None:
    deployment = findings.deployment
    _check_authentication(findings, at, front_end.authentication)
    provider = deployment.identity_provider_by_issuer.get(front_end.identity_provider)
    if provider is None:
        findings.add(
            AGENTS,
            (*at, "identity_provider"),
            "there is no identity provider with this issuer",
            choose_from(
                front_end.identity_provider,
                deployment.identity_provider_by_issuer,
                otherwise="add the identity provider",
            ),
            needs=(IDENTITY_PROVIDERS,),
        )
    elif findings.apart(provider.tenant, front_end.tenant):
        findings.add(
            AGENTS,
            (*at, "identity_provider"),
            f"the identity provider belongs to tenant `{provider.tenant}`",
            "name one of the front end's own tenant",
        )
    for position, client_id in enumerate(front_end.agents):
        _check_agent_reference(findings, (*at, "agents", position), client_id, front_end.tenant)


def _check_agent(findings: Findings, at: Place, agent: Agent) -> None:
    deployment = findings.deployment
    _check_authentication(findings, at, agent.authentication)
    catalog = [
        action
        for connection in deployment.connections
        if _is_in(findings, agent.tenant, connection)
        for action in connection.actions
    ]
    for position, pattern in enumerate(agent.actions):
        matched = [action for action in catalog if covers(pattern, action.id)]
        if not matched and findings.actions_are_complete:
            remedy = choose_from(pattern, (action.id for action in catalog), otherwise="add the action first")
            message = f"`{pattern}` matches no action"
            findings.add(AGENTS, (*at, "actions", position), message, remedy, needs=(CONNECTIONS,))
        elif matched and all(action.effect not in agent.effects for action in matched):
            remedy = "allow the effect, or remove the pattern"
            message = f"everything `{pattern}` matches has an effect this agent may not have"
            findings.add(AGENTS, (*at, "actions", position), message, remedy, needs=(CONNECTIONS,))
    for position, client_id in enumerate(agent.delegates_to):
        place: Place = (*at, "delegates_to", position)
        if client_id == agent.client_id:
            findings.add(AGENTS, place, f"agent `{client_id}` delegates to itself", "remove it")
        else:
            _check_agent_reference(findings, place, client_id, agent.tenant)
    for position, resource in enumerate(agent.introspects):
        if resource not in deployment.connection_by_resource:
            remedy = choose_from(resource, deployment.connection_by_resource, otherwise="add the connection")
            message = "no connection has this resource"
            findings.add(AGENTS, (*at, "introspects", position), message, remedy, needs=(CONNECTIONS,))
    _check_reports(findings, at, agent)
    for position, intent in enumerate(agent.default_intents if findings.actions_are_complete else ()):
        _check_default_intent(findings, (*at, "default_intents", position), agent, intent)
    findings.unique(
        AGENTS,
        (
            ((*at, "default_intents", position), (intent.resource, intent.scope))
            for position, intent in enumerate(agent.default_intents)
        ),
        "a default intent for",
        "keep one default intent per resource and scope",
    )
    _warn_about_idle_agent(findings, at, agent)


def _check_reports(findings: Findings, at: Place, agent: Agent) -> None:
    deployment = findings.deployment
    for position, resource in enumerate(agent.reports_as):
        place: Place = (*at, "reports_as", position)
        connection = deployment.connection_by_resource.get(resource)
        if connection is None:
            remedy = choose_from(resource, deployment.connection_by_resource, otherwise="add the connection")
            findings.add(AGENTS, place, "no connection has this resource", remedy, needs=(CONNECTIONS,))
        elif connection.grant_kind is not GrantKind.BROKER_JWT:
            message = f"tokens for `{connection.id}` are the platform's own, which name no hand-out"
            findings.add(AGENTS, place, message, "remove it: there the agents report", needs=(CONNECTIONS,))
        elif any(covers(pattern, action.id) for pattern in agent.actions for action in connection.actions):
            message = f"it may have tokens for `{connection.id}` itself, and would be its own witness"
            remedy = "give the resource server an entry of its own, without actions there"
            findings.add(AGENTS, place, message, remedy, needs=(CONNECTIONS,))


def _warn_about_idle_agent(findings: Findings, at: Place, agent: Agent) -> None:
    deployment = findings.deployment
    named = {client_id for front_end in deployment.front_ends for client_id in front_end.agents}
    named |= {client_id for other in deployment.agents for client_id in other.delegates_to}
    misnamed = not named <= deployment.agent_by_id.keys()  # reported there; this agent may be the one that is meant
    id_jag = any(
        provider.id_jag and not findings.apart(provider.tenant, agent.tenant)
        for provider in deployment.identity_providers
    )
    if agent.client_id not in named and not misnamed and not (agent.accepts_id_jag and id_jag) and agent.actions:
        message = f"nobody can act through agent `{agent.client_id}`"
        remedy = "list it under a front end's agents or another agent's delegates_to"
        findings.add(AGENTS, at, message, remedy, severity="warning", needs=(IDENTITY_PROVIDERS,))
    if agent.accepts_id_jag and not id_jag:
        remedy = "set id_jag: true for the identity provider, or remove accepts_id_jag"
        message = "accepts_id_jag, but no identity provider of the tenant has id_jag"
        findings.add(AGENTS, (*at, "accepts_id_jag"), message, remedy, severity="warning", needs=(IDENTITY_PROVIDERS,))


def _check_default_intent(findings: Findings, at: Place, agent: Agent, intent: DefaultIntent) -> None:
    deployment = findings.deployment
    connection = deployment.connection_by_resource.get(intent.resource)
    if connection is None or not _is_in(findings, agent.tenant, connection):
        remedy = choose_from(intent.resource, deployment.connection_by_resource, otherwise="add the connection")
        message = "no connection of the tenant has this resource"
        findings.add(AGENTS, (*at, "resource"), message, remedy, needs=(CONNECTIONS,))
        return
    action = connection.action_by_id.get(intent.action)
    if action is None:
        remedy = choose_from(intent.action, connection.action_by_id, otherwise="add the action")
        findings.add(AGENTS, (*at, "action"), f"`{intent.action}` is no action of `{connection.id}`", remedy)
        return
    for place, message, remedy in _misfits(agent, intent, action, connection):
        findings.add(AGENTS, (*at, *place), message, remedy)


def _misfits(
    agent: Agent, intent: DefaultIntent, action: Action, connection: Connection
) -> Iterator[tuple[Place, str, str]]:
    """Why a default intent could never be granted, with place and remedy."""
    if not covered_by_any(agent.actions, action.id) or action.effect not in agent.effects:
        yield ("action",), f"the agent may not use `{action.id}`", "add it to the agent's actions and effects"
    if not action.accepts_identifier(intent.identifier):
        yield ("identifier",), "the identifier does not fit the catalog", f"it has the form {action.identifier}"
    if intent.scope is not None and intent.scope not in action.scopes:
        remedy = choose_from(intent.scope, action.scopes, otherwise=f"`{action.id}` has no scopes: remove it")
        yield ("scope",), f"`{action.id}` does not need scope `{intent.scope}`", remedy
    for name, value in intent.parameters.items():
        parameter = action.parameters.get(name)
        if parameter is None:
            remedy = choose_from(name, action.parameters, otherwise="remove it")
            yield ("parameters", name), f"`{action.id}` has no parameter `{name}`", remedy
        elif problem := parameter.problem(value):
            yield ("parameters", name), f"parameter `{name}` {problem}", f"see `{action.id}` in connections.yaml"
    for name, parameter in action.parameters.items():
        if parameter.required and name not in intent.parameters:
            yield ("parameters",), f"parameter `{name}` of `{action.id}` is required", "add it"

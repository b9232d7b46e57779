"""Cross checks of connections.yaml: providers, connections and the action catalog."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cab.adapters.configuration.checks.broker import check_issuer, check_url
from cab.adapters.configuration.checks.findings import AGENTS, CONNECTIONS, Findings
from cab.adapters.configuration.problems import choose_from
from cab.adapters.configuration.shipped import shipped_providers
from cab.adapters.configuration.yaml_tree import Place
from cab.domain.calls.tools import MAX_NAME_CHARS, tool_name
from cab.domain.configured.actions import Action, Effect
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection, GrantKind, NarrowingRequest, Provider
from cab.domain.text.patterns import covered_by_any
from cab.domain.token_life import PROMISE, spares_tokens

PARAMETER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_GROUPS_OF_EFFECTS = frozenset(Effect)
_NAMES_OF_TRUST: Mapping[GrantKind, tuple[str, ...]] = {
    GrantKind.TOKEN_EXCHANGE: ("exchange_audience", "subject_token_audience"),
    GrantKind.ID_JAG: ("issuer",),
}


def check_providers(findings: Findings, own_providers: Sequence[Provider]) -> None:
    shipped = shipped_providers()
    findings.unique(
        CONNECTIONS,
        ((("providers", position, "id"), provider.id) for position, provider in enumerate(own_providers)),
        "provider",
        "give every provider an id of its own",
    )
    for position, provider in enumerate(own_providers):
        at: Place = ("providers", position)
        if provider.id in shipped:
            remedy = f"choose another id; `extends: {provider.id}` takes over its facts"
            findings.add(CONNECTIONS, (*at, "id"), f"provider `{provider.id}` is shipped with CAB", remedy)
        if provider.issuer is not None:
            check_issuer(findings, CONNECTIONS, (*at, "issuer"), provider.issuer)
        elif provider.iss_parameter == "required":
            findings.add(CONNECTIONS, (*at, "iss_parameter"), "iss_parameter needs an issuer", "add issuer")
        for name in ("authorization_endpoint", "token_endpoint", "userinfo_endpoint"):
            check_url(findings, CONNECTIONS, (*at, name), getattr(provider, name))
        check_url(findings, CONNECTIONS, (*at, "revocation", "endpoint"), provider.revocation.endpoint)
        if provider.narrowing_request != NarrowingRequest() and provider.narrowing != "token_exchange":
            message = "narrowing_request belongs to narrowing token_exchange"
            findings.add(CONNECTIONS, (*at, "narrowing_request"), message, "remove it")


def check_actions_are_unique(findings: Findings) -> None:
    """Comes first: the id that a second action should have had is then missing everywhere else, which is no mistake there."""
    before = len(findings.problems)
    findings.unique(
        CONNECTIONS,
        (
            (("connections", position, "actions", number, "id"), action.id)
            for position, connection in enumerate(findings.deployment.connections)
            for number, action in enumerate(connection.actions)
        ),
        "action",
        "give every action an id of its own, across all connections",
    )
    if len(findings.problems) > before:
        findings.actions_are_complete = False
        return
    callable_actions = [
        (("connections", position, "actions", number, "id"), action)
        for position, connection in enumerate(findings.deployment.connections)
        for number, action in enumerate(connection.actions)
        if action.call is not None
    ]
    findings.unique(
        CONNECTIONS,
        ((place, tool_name(action.id)) for place, action in callable_actions),
        "tool",
        "choose ids that also differ with underscores in place of dots: so are tools named",
    )
    for place, action in callable_actions:
        if len(action.id) > MAX_NAME_CHARS:
            message = f"`{action.id}` is too long for a tool"
            findings.add(
                CONNECTIONS, place, message, f"use at most {MAX_NAME_CHARS} characters: clients refuse longer names"
            )


def check_connections(findings: Findings) -> None:
    connections = findings.deployment.connections
    for position, connection in enumerate(connections):
        _check_connection(findings, ("connections", position), connection)
    places = [(("connections", position), connection) for position, connection in enumerate(connections)]
    findings.unique(
        CONNECTIONS,
        (((*at, "id"), connection.id) for at, connection in places),
        "connection",
        "give every connection an id of its own: it is the audience of its tokens",
    )
    findings.unique(
        CONNECTIONS,
        (((*at, "resource"), connection.resource.rstrip("/")) for at, connection in places),
        "resource",
        "give every connection a resource of its own: tokens are bound to it",
    )


def _check_connection(findings: Findings, at: Place, connection: Connection) -> None:
    check_url(findings, CONNECTIONS, (*at, "resource"), connection.resource)
    check_url(findings, CONNECTIONS, (*at, "api_base"), connection.api_base)
    if connection.mcp is not None:
        check_url(findings, CONNECTIONS, (*at, "mcp", "endpoint"), connection.mcp.endpoint)
    if connection.resource.rstrip("/") == findings.deployment.broker.origin:
        remedy = "name the downstream system: a token for the broker itself is never handed out"
        findings.add(CONNECTIONS, (*at, "resource"), "the resource is the broker itself", remedy)
    if connection.id in _GROUPS_OF_EFFECTS:
        remedy = "choose another id: in policies it would be the action group of an effect"
        findings.add(CONNECTIONS, (*at, "id"), f"a connection cannot be called `{connection.id}`", remedy)
    provider = findings.deployment.provider_by_id.get(connection.provider)
    if provider is None:
        remedy = choose_from(connection.provider, findings.deployment.provider_by_id, otherwise="")
        findings.add(CONNECTIONS, (*at, "provider"), f"there is no provider `{connection.provider}`", remedy)
    else:
        _check_parameters(findings, at, connection, provider)
        _check_grant_kind(findings, at, connection, provider)
        _check_narrowing(findings, at, connection, provider)
        _check_promise(findings, at, connection, provider)
        _check_connect_scopes(findings, at, connection, provider)
    for position, action in enumerate(connection.actions):
        _check_action(findings, (*at, "actions", position), connection, action)


def _repeated_domain(provider: Provider, name: str, value: str) -> str | None:
    """The domain that an address adds to this subdomain, where the value ends with it already."""
    for address in (*provider.endpoints, provider.authorization_endpoint or ""):
        found = re.search(rf"\{{{name}\}}(\.[^/{{}}]+)", address)
        if found is not None and value.endswith(found[1]):
            return found[1]
    return None


def _check_parameters(findings: Findings, at: Place, connection: Connection, provider: Provider) -> None:
    """Every open place of the provider's addresses has a value that cannot lead them elsewhere, and nothing else is given."""
    for name, value in connection.provider_parameters.items():
        place: Place = (*at, "provider_parameters", name)
        parameter = provider.open_parameters.get(name)
        if parameter is None:
            remedy = choose_from(name, provider.open_parameters, otherwise="remove it")
            findings.add(CONNECTIONS, place, f"provider `{provider.id}` has no parameter `{name}`", remedy)
        elif form := parameter.mistake(value):
            findings.add(CONNECTIONS, place, f"the value of `{name}` is not usable", f"write {form}")
        elif domain := _repeated_domain(provider, name, value):
            remedy = f"write `{value.removesuffix(domain)}`: the address adds {domain}"
            findings.add(CONNECTIONS, place, f"the value of `{name}` is a whole host", remedy)
    for name, parameter in provider.open_parameters.items():
        if parameter.default is None and name not in connection.provider_parameters:
            remedy = f"add `{name}: {parameter.example}` with your own value: {parameter.description}"
            findings.add(
                CONNECTIONS,
                (*at, "provider_parameters"),
                f"provider `{provider.id}` needs the parameter `{name}`",
                remedy,
            )


def _check_grant_kind(findings: Findings, at: Place, connection: Connection, provider: Provider) -> None:
    kind = connection.grant_kind
    place = (*at, "grant_kind")
    if kind not in provider.grant_kinds:
        known = ", ".join(sorted(provider.grant_kinds))
        findings.add(CONNECTIONS, place, f"provider `{provider.id}` has no {kind.value}", f"it has: {known}")
    if connection.user_map and kind is GrantKind.AUTHORIZATION_CODE:
        message = "user_map belongs to grant_kind jwt_bearer, token_exchange, id_jag or broker_jwt"
        findings.add(CONNECTIONS, (*at, "user_map"), message, "remove it")
    _check_trust(findings, at, connection, provider)
    if kind.serves_mapped_users_only and not connection.user_map:
        remedy = "map subject keys to upstream logins: nobody is mapped by guessing"
        findings.add(CONNECTIONS, place, f"{kind.value} without user_map serves nobody", remedy, severity="warning")
    if kind is GrantKind.BROKER_JWT:
        return
    missing = [] if provider.token_endpoint else ["token_endpoint"]
    if kind is GrantKind.AUTHORIZATION_CODE and not provider.authorization_endpoint:
        missing.append("authorization_endpoint")
    if missing:
        remedy = f"add a provider of your own: id, title, `extends: {provider.id}` and its endpoints"
        message = f"provider `{provider.id}` does not say its {' and '.join(missing)}"
        findings.add(CONNECTIONS, (*at, "provider"), message, remedy)
    if kind not in (GrantKind.AUTHORIZATION_CODE, GrantKind.ID_JAG):
        return
    public = provider.token_endpoint_auth_method == "none"
    if connection.client_secret is None and not public:
        remedy = "add client_secret with the name of the Secret Manager secret"
        findings.add(CONNECTIONS, (*at, "client_id"), "the client has no client_secret", remedy)
    if connection.client_secret is not None and public:
        remedy = f"remove it: provider `{provider.id}` authenticates no client"
        findings.add(CONNECTIONS, (*at, "client_secret"), "the client_secret is never sent", remedy)
    if kind is GrantKind.AUTHORIZATION_CODE and public and provider.pkce == "unsupported":
        remedy = (
            "register a confidential client there: without PKCE and without a secret, whoever sees a code can use it"
        )
        findings.add(CONNECTIONS, (*at, "provider"), "neither PKCE nor the client's secret protects codes", remedy)
    if kind is GrantKind.ID_JAG and public:
        remedy = "register a confidential client there, and write how it authenticates into the provider"
        message = "anyone who obtains an ID-JAG can redeem it: the client does not authenticate"
        findings.add(CONNECTIONS, place, message, remedy, severity="warning")


def _check_trust(findings: Findings, at: Place, connection: Connection, provider: Provider) -> None:
    """What stands in for the user's consent: a key that the system trusts, or names under which the two know each other."""
    kind = connection.grant_kind
    if connection.assertion_key is not None and kind is not GrantKind.JWT_BEARER:
        message = "assertion_key belongs to grant_kind jwt_bearer"
        findings.add(CONNECTIONS, (*at, "assertion_key"), message, "remove it")
    if kind is GrantKind.JWT_BEARER:
        if connection.assertion_key is None:
            remedy = "add assertion_key with the name of the Secret Manager secret that holds the private JWK"
            findings.add(CONNECTIONS, (*at, "grant_kind"), "jwt_bearer needs an assertion_key", remedy)
        if connection.client_id is None:
            remedy = "add client_id: it is the issuer of the assertions"
            findings.add(CONNECTIONS, (*at, "grant_kind"), "jwt_bearer needs a client_id", remedy)
    if kind is GrantKind.ID_JAG and connection.client_id is None:
        remedy = "add client_id: ID-JAGs are made out to this client of the broker"
        findings.add(CONNECTIONS, (*at, "grant_kind"), "id_jag needs a client_id", remedy)
    for name in _NAMES_OF_TRUST.get(kind, ()):
        if getattr(provider, name) is None:
            remedy = f"add a provider of your own: id, title, `extends: {provider.id}` and its {name}"
            message = f"{kind.value} needs the {name} of its provider"
            findings.add(CONNECTIONS, (*at, "provider"), message, remedy)
    _check_audience(findings, at, connection, provider)


def _check_audience(findings: Findings, at: Place, connection: Connection, provider: Provider) -> None:
    """What our STS says of a user to one system is no token anywhere else."""
    deployment, there = findings.deployment, _filled(provider, connection)
    ours = {deployment.broker.sts_issuer, deployment.broker.edge_issuer}
    match connection.grant_kind:
        case GrantKind.TOKEN_EXCHANGE if there.subject_token_audience in ours | set(deployment.connection_by_resource):
            message = "the subject_token_audience is one of other tokens of the broker"
            remedy = "register the broker there under a client id of its own"
            findings.add(CONNECTIONS, (*at, "provider"), message, remedy)
        case GrantKind.ID_JAG if there.issuer in ours:
            message = f"the issuer of provider `{provider.id}` is the broker itself"
            remedy = "name the issuer of the system's authorization server"
            findings.add(CONNECTIONS, (*at, "provider"), message, remedy)


def _filled(provider: Provider, connection: Connection) -> Provider:
    try:
        return provider.at(connection.provider_parameters)
    except KeyError:
        return provider  # a value is missing, which is told elsewhere


def _check_narrowing(findings: Findings, at: Place, connection: Connection, provider: Provider) -> None:
    """Where the provider cannot narrow, a token for one action carries all scopes: the broker refuses unless that is allowed."""
    if connection.grant_kind is GrantKind.BROKER_JWT or connection.allow_unnarrowed or _narrows(connection, provider):
        return
    per_api = provider.narrowing == "on_behalf_of"
    wider = [
        action.id
        for action in connection.actions
        if set(action.scopes) != (_at_the_same_apis(action, connection) if per_api else set(connection.all_scopes))
    ]
    if wider:
        findings.add(
            CONNECTIONS,
            (*at, "provider"),
            f"tokens for {wider[0]} would carry more scopes than it needs, so they are refused: "
            f"`{provider.id}` cannot narrow{' within one API' if per_api else ''}",
            "set allow_unnarrowed: true if that is acceptable, or split the connection",
            severity="warning",
        )


def _check_promise(findings: Findings, at: Place, connection: Connection, provider: Provider) -> None:
    """Where agents cannot be given tokens that certainly work for 240 s: see `cab.domain.token_life`."""
    if connection.grant_kind is not GrantKind.AUTHORIZATION_CODE or provider.narrows_by_exchange:
        return
    life_s, promise_s = provider.access_token_lifetime_s, int(PROMISE.total_seconds())
    old, place = provider.rotation.old_access_token, (*at, "provider")
    scopes_of_actions = {frozenset(action.scopes) for action in connection.actions}
    if life_s is not None and life_s <= promise_s:
        message = f"tokens of `{provider.id}` live {life_s} s: common clients take less than 225 s for expired"
        remedy = "have the system give tokens for five minutes or more"
        findings.add(CONNECTIONS, place, message, remedy, severity="warning")
    elif old == "dies_at_once" and provider.narrowing == "scope_at_refresh":
        message = f"a refresh at `{provider.id}` ends the tokens before it, so it is never asked for fewer scopes"
        remedy = "set allow_unnarrowed: true if that is acceptable, or split the connection"
        findings.add(CONNECTIONS, place, message, remedy, severity="warning")
    elif old == "dies_after_leeway" and not spares_tokens(provider) and len(scopes_of_actions) > 1:
        message = (
            f"a token of `{provider.id}` may end {provider.rotation.leeway_s} s after one for another action is fetched"
        )
        remedy = "lengthen the leeway there to 240 s or more, or split the connection"
        findings.add(CONNECTIONS, place, message, remedy, severity="warning")


def _narrows(connection: Connection, provider: Provider) -> bool:
    """Whether tokens can be asked for with the scopes of one action: at every request where nothing is refreshed."""
    if connection.grant_kind.sts_vouches:
        return True
    if connection.grant_kind is GrantKind.JWT_BEARER:
        return provider.assertion_scope != "none"
    return provider.narrows_at_refresh or provider.narrowing == "token_exchange"


def _at_the_same_apis(action: Action, connection: Connection) -> set[str]:
    """Entra's token for an API carries every scope there that was consented to, whatever was asked for."""
    apis = {scope.rpartition("/")[0] for scope in action.scopes}
    return {scope for scope in connection.all_scopes if scope.rpartition("/")[0] in apis}


def _check_connect_scopes(findings: Findings, at: Place, connection: Connection, provider: Provider) -> None:
    """What the user consents to, where tokens for actions are made from it."""
    by_exchange = connection.grant_kind is GrantKind.AUTHORIZATION_CODE and provider.narrows_by_exchange
    place = (*at, "connect_scopes")
    if connection.connect_scopes and not by_exchange:
        message = f"the connect_scopes would give no action its token: `{provider.id}` does not narrow by exchange"
        findings.add(CONNECTIONS, place, message, "remove them")
    if not by_exchange or provider.narrowing != "on_behalf_of":
        return
    if not connection.connect_scopes:
        remedy = "add connect_scopes with the scope that your registration exposes, such as api://CLIENT_ID/access"
        message = "on_behalf_of needs connect_scopes: the user consents to the broker's own API"
        findings.add(CONNECTIONS, (*at, "provider"), message, remedy)
    for action in connection.actions:
        if not set(action.scopes).isdisjoint(connection.connect_scopes):
            remedy = "name a scope of the broker's own API: tokens for the actions' scopes are made from it"
            findings.add(CONNECTIONS, place, f"the grant itself would do for {action.id}", remedy)
            break
    if provider.token_endpoint_auth_method == "none":
        remedy = "write client_secret_post or client_secret_basic into the provider"
        findings.add(CONNECTIONS, (*at, "provider"), "on_behalf_of needs a client that authenticates", remedy)


def _check_action(findings: Findings, at: Place, connection: Connection, action: Action) -> None:
    if connection.grant_kind is not GrantKind.BROKER_JWT and not action.scopes:
        remedy = "name the scopes this action needs at the provider"
        findings.add(CONNECTIONS, at, f"{action.id} has no scopes", remedy, severity="warning")
    if not any(_may_use(findings, agent, connection, action) for agent in findings.deployment.agents):
        message, remedy = f"no agent may use {action.id}", "add it to an agent's actions, or remove it here"
        findings.add(CONNECTIONS, (*at, "id"), message, remedy, severity="warning", needs=(AGENTS,))
    for name, parameter in action.parameters.items():
        place: Place = (*at, "parameters", name)
        if not PARAMETER_NAME.fullmatch(name):
            remedy = "use letters, digits and _: policies write context.parameters.name"
            findings.add(CONNECTIONS, place, f"parameter name `{name}` is not usable", remedy)
        if parameter.required and parameter.default is not None:
            remedy = "remove one of the two"
            findings.add(CONNECTIONS, place, f"parameter `{name}` is required and has a default", remedy)
        if parameter.values and parameter.type not in ("string", "strings"):
            remedy = "use minimum and maximum, or type: string"
            findings.add(CONNECTIONS, (*place, "values"), f"`{name}` is no string and cannot have values", remedy)
        if parameter.minimum > parameter.maximum:
            findings.add(CONNECTIONS, (*place, "minimum"), f"`{name}`: minimum is above maximum", "swap them")


def _may_use(findings: Findings, agent: Agent, connection: Connection, action: Action) -> bool:
    return (
        any(not findings.apart(agent.tenant, tenant) for tenant in connection.tenants)
        and action.effect in agent.effects
        and covered_by_any(agent.actions, action.id)
    )

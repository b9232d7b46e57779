"""Cross checks of broker.yaml and identity_providers.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from cab.adapters.configuration.checks.findings import AGENTS, BROKER, CONNECTIONS, IDENTITY_PROVIDERS, Findings
from cab.adapters.configuration.checks.issuers import ENTRA, why_no_token_names
from cab.adapters.configuration.checks.urls import url_mistake
from cab.adapters.configuration.problems import choose_from, closest
from cab.adapters.configuration.yaml_tree import Place
from cab.adapters.http.addresses import is_literal, is_private
from cab.domain.configured.deployment import Deployment, IdentityProvider
from cab.domain.text.patterns import covers

GROUP_NAME_LIMIT = 100


def check_url(findings: Findings, file: str, place: Place, url: str | None) -> None:
    """An error unless `url` is absent, https, or http to loopback where that is allowed."""
    if url is None:
        return
    mistake = url_mistake(url, allow_loopback_http=findings.deployment.broker.allow_loopback_http)
    if mistake:
        findings.add(file, place, f"{_name(place)} {mistake[0]}", mistake[1])


def check_issuer(findings: Findings, file: str, place: Place, issuer: str) -> None:
    """As `check_url`; and a warning about a trailing slash, because issuers are compared byte for byte."""
    check_url(findings, file, place, issuer)
    if "?" in issuer:
        findings.add(file, place, f"{_name(place)} has a query", "remove everything from the ? on")
    if issuer.endswith("/"):
        findings.add(
            file,
            place,
            f"{_name(place)} ends with a slash",
            "keep it only if `issuer` in the provider's discovery document has it too: issuers are compared byte for byte",
            severity="warning",
        )


def check_tenants(findings: Findings) -> None:
    """Every tenant that is named exists. One misspelt name is one mistake, however often it occurs."""
    declared = [entry.id for entry in findings.deployment.broker.tenants]
    named: dict[str, list[tuple[str, Place]]] = {}
    for file, place, tenant in _mentions_of_tenants(findings.deployment):
        named.setdefault(tenant, []).append((file, place))
    unused = [tenant for tenant in declared if tenant not in named]
    for tenant, mentions in named.items():
        if tenant in declared:
            continue
        times = f", and named {len(mentions)} times" if len(mentions) > 1 else ""
        if len(mentions) > 1 and (near := closest(tenant, unused)):  # misspelt where it is declared
            message = f"tenant `{near}` is declared and never named; `{tenant}` is not declared{times}"
            place = ("tenants", declared.index(near), "id")
            needs = (IDENTITY_PROVIDERS, AGENTS, CONNECTIONS)
            findings.add(BROKER, place, message, f"did you mean `{tenant}` here?", needs=needs)
            continue
        file, place = mentions[0]
        remedy = choose_from(tenant, declared, otherwise="add it to broker.yaml")
        findings.add(file, place, f"tenant `{tenant}` is not in broker.yaml{times}", remedy, needs=(BROKER,))


def _mentions_of_tenants(deployment: Deployment) -> Iterator[tuple[str, Place, str]]:
    for position, provider in enumerate(deployment.identity_providers):
        yield IDENTITY_PROVIDERS, ("identity_providers", position, "tenant"), provider.tenant
    for position, front_end in enumerate(deployment.front_ends):
        yield AGENTS, ("front_ends", position, "tenant"), front_end.tenant
    for position, agent in enumerate(deployment.agents):
        yield AGENTS, ("agents", position, "tenant"), agent.tenant
    for position, connection in enumerate(deployment.connections):
        for number, tenant in enumerate(connection.tenants):
            yield CONNECTIONS, ("connections", position, "tenants", number), tenant


def check_broker(findings: Findings, environment: Mapping[str, str]) -> None:
    broker = findings.deployment.broker
    check_url(findings, BROKER, ("origin",), broker.origin)
    if broker.allow_loopback_http and "K_SERVICE" in environment:
        findings.add(
            BROKER,
            ("allow_loopback_http",),
            "allow_loopback_http is set in the cloud",
            "remove it: it is for local development only",
        )
    findings.unique(
        BROKER,
        ((("tenants", position, "id"), tenant.id) for position, tenant in enumerate(broker.tenants)),
        "tenant",
        "give every tenant an id of its own",
    )
    findings.unique(
        BROKER,
        ((("environment_variables", position), name) for position, name in enumerate(broker.environment_variables)),
        "variable",
        "remove one of them",
    )
    findings.unique(
        BROKER,
        (
            (("trust_zones", position), zone if isinstance(zone, str) else zone.id)
            for position, zone in enumerate(broker.trust_zones)
        ),
        "trust zone",
        "remove one of them",
    )
    findings.unique(
        BROKER,
        (
            (("rate_limits", position), f"{kind} {name}")
            for position, limit in enumerate(broker.rate_limits)
            for kind, names in (("effect", limit.effects), ("action", limit.actions))
            for name in names
        ),
        "a limit for",
        "keep one limit for each effect, action or pattern",
    )
    catalog = [action.id for connection in findings.deployment.connections for action in connection.actions]
    for position, limit in enumerate(broker.rate_limits):
        for number, pattern in enumerate(limit.actions):
            if not any(covers(pattern, action) for action in catalog) and findings.actions_are_complete:
                place: Place = ("rate_limits", position, "actions", number)
                remedy = choose_from(pattern, catalog, otherwise="add the action first")
                findings.add(BROKER, place, f"`{pattern}` matches no action", remedy, needs=(CONNECTIONS,))
    _check_private_hosts(findings)
    for position, issuer in enumerate(broker.federated_issuers):
        check_issuer(findings, BROKER, ("federated_issuers", position, "issuer"), issuer.issuer)
        check_url(findings, BROKER, ("federated_issuers", position, "jwks_uri"), issuer.jwks_uri)
    findings.unique(
        BROKER,
        (
            (("federated_issuers", position, "issuer"), issuer.issuer)
            for position, issuer in enumerate(broker.federated_issuers)
        ),
        "issuer",
        "list every issuer once",
    )


def _check_private_hosts(findings: Findings) -> None:
    """Hosts that may have private addresses: each is in use, and none is of a kind that is never reached."""
    used = set(_hosts(findings.deployment))
    for position, host in enumerate(findings.deployment.broker.private_hosts):
        place: Place = ("private_hosts", position)
        if is_literal(host) and not is_private(host):
            remedy = "remove it: only addresses of private networks need this, and metadata services are never reached"
            findings.add(BROKER, place, f"`{host}` is not in a private network", remedy)
        elif host not in used:
            remedy = "write the host exactly as in its URL, or remove it"
            findings.add(BROKER, place, f"no URL of these files leads to `{host}`", remedy, severity="warning")


def _hosts(deployment: Deployment) -> Iterator[str]:
    """The hosts that the broker sends requests to."""
    urls = [url for item in deployment.broker.federated_issuers for url in (item.issuer, item.jwks_uri)]
    for idp in deployment.identity_providers:
        urls += [idp.issuer, idp.jwks_uri or "", *idp.endpoint_origins]
    for connection in deployment.connections:
        provider = deployment.provider_by_id.get(connection.provider)
        try:
            urls += () if provider is None else provider.at(connection.provider_parameters).endpoints
        except KeyError:
            continue  # a value is missing, which is told elsewhere
    for url in urls:
        try:
            yield urlsplit(url).hostname or ""
        except ValueError:
            continue  # told elsewhere


def check_identity_providers(findings: Findings) -> None:
    deployment = findings.deployment
    own = {deployment.broker.sts_issuer, deployment.broker.edge_issuer, deployment.broker.origin}
    named: list[tuple[Place, object]] = []
    for position, provider in enumerate(deployment.identity_providers):
        at: Place = ("identity_providers", position)
        check_issuer(findings, IDENTITY_PROVIDERS, (*at, "issuer"), provider.issuer)
        check_url(findings, IDENTITY_PROVIDERS, (*at, "jwks_uri"), provider.jwks_uri)
        if provider.issuer.rstrip("/") in own:
            remedy = "name the IdP's issuer: the broker never accepts its own tokens as a login"
            findings.add(IDENTITY_PROVIDERS, (*at, "issuer"), "issuer is the broker itself", remedy)
        named.append(((*at, "issuer"), provider.issuer.rstrip("/")))
        if "openid" not in provider.login.scopes:
            remedy = "add openid: without it there is no ID token"
            findings.add(IDENTITY_PROVIDERS, (*at, "login", "scopes"), "login.scopes lacks openid", remedy)
        for value, group in provider.groups.items():
            if not (group.isprintable() and 0 < len(group) <= GROUP_NAME_LIMIT):
                remedy = f"write a printable name of at most {GROUP_NAME_LIMIT} characters"
                findings.add(IDENTITY_PROVIDERS, (*at, "groups", value), "the group name is not usable", remedy)
        _check_what_can_match(findings, at, provider)
    findings.unique(IDENTITY_PROVIDERS, named, "issuer", "list every issuer once")
    shown: dict[tuple[str, str | None], int] = {}
    for position, provider in enumerate(deployment.identity_providers):
        first = shown.setdefault((provider.tenant, provider.title), position)
        if first != position:
            findings.add(
                IDENTITY_PROVIDERS,
                ("identity_providers", position),
                f"people cannot tell this login from another of tenant `{provider.tenant}`",
                "give each of them a `title`: the page where people choose shows it",
                severity="warning",
            )
    callbacks: dict[str | None, int] = {}
    for position, provider in enumerate(deployment.identity_providers):
        first = callbacks.setdefault(provider.login.callback, position)
        if first != position:
            findings.add(
                IDENTITY_PROVIDERS,
                ("identity_providers", position, "login"),
                "this provider shares its redirect URI with another: whoever runs the one could log in as people of the other",
                "give it a `login.callback`, and register ORIGIN/login/callback/NAME there",
                severity="warning",
            )
    for position, tenant in enumerate(deployment.broker.tenants):
        if all(findings.apart(tenant.id, provider.tenant) for provider in deployment.identity_providers):
            findings.add(
                BROKER,
                ("tenants", position, "id"),
                f"tenant `{tenant.id}` has no identity provider",
                "add one to identity_providers.yaml: nobody can act there",
                severity="warning",
                needs=(IDENTITY_PROVIDERS,),
            )


_OTHER_NOTATIONS: Final = re.compile(r"^[/$@]|[\[\]*]")  # JSON Pointer, JSONPath, JMESPath
_CHANGING_CLAIMS: Final = frozenset({"email", "upn", "preferred_username", "unique_name", "name", "nickname"})


def _check_what_can_match(findings: Findings, at: Place, provider: IdentityProvider) -> None:
    """Warnings about what is legal and can never match a token, or makes two users of one person."""

    def warn(name: str, message: str, remedy: str, *, needs: tuple[str, ...] = ()) -> None:
        findings.add(IDENTITY_PROVIDERS, (*at, name), message, remedy, severity="warning", needs=needs)

    try:
        never = why_no_token_names(provider.issuer)
        host = urlsplit(provider.issuer).hostname
    except ValueError:
        return  # told elsewhere
    if never is not None:
        said, remedy = never
        warn("issuer", f"issuer {said}: no token names it", remedy)
    for name, value in (("groups_claim", provider.groups_claim), ("subject_claim", provider.subject_claim)):
        if "//" not in value and "" in value.split("."):
            warn(name, f"{name} has an empty part between its dots: no claim is found", "write names between the dots")
        if _OTHER_NOTATIONS.search(value):
            warn(name, f"{name} is a path in another notation: no claim is found", "write names with dots between")
    if provider.groups_claim != "groups" and not provider.groups:
        warn("groups_claim", "groups maps nothing, so groups_claim is never read", "map the claim's values in groups")
    if provider.groups and host == "accounts.google.com":
        remedy = "remove groups, or log in through an identity provider that sends them"
        warn("groups", "Google's ID tokens carry no groups: membership is always unknown", remedy)
    if provider.subject_claim in _CHANGING_CLAIMS:
        remedy = "choose a claim that never changes and is never given to another person, such as sub or oid"
        warn("subject_claim", f"`{provider.subject_claim}` can change or pass to another person", remedy)
    clients = {
        entry.idp_client_id for entry in findings.deployment.front_ends if entry.identity_provider == provider.issuer
    }
    if host in ENTRA and provider.subject_claim == "sub" and clients - {provider.login.client_id}:
        remedy = "add subject_claim: oid, or register the front ends and the pages as one application"
        message = "sub differs between registrations here: front ends and pages take one person for two"
        warn("issuer", message, remedy, needs=(AGENTS,))


def _name(place: Place) -> str:
    return ".".join(str(part) for part in place if isinstance(part, str)) or "value"

"""Everything that can only be seen with all files side by side: references, duplicates, URLs, reachability."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cab.adapters.configuration.checks.broker import check_broker, check_identity_providers, check_tenants
from cab.adapters.configuration.checks.clients import check_clients
from cab.adapters.configuration.checks.connections import check_actions_are_unique, check_connections, check_providers
from cab.adapters.configuration.checks.findings import Findings
from cab.adapters.configuration.checks.secrets import check_secrets
from cab.adapters.configuration.checks.zones import check_zones
from cab.adapters.configuration.problems import Problem
from cab.adapters.configuration.yaml_tree import YamlTree
from cab.domain.configured.connections import Provider
from cab.domain.configured.deployment import Deployment


def cross_checks(
    deployment: Deployment,
    trees: Mapping[str, YamlTree],
    environment: Mapping[str, str],
    *,
    own_providers: Sequence[Provider],
    unread: Collection[str],
    uncertain: Collection[str],
) -> list[Problem]:
    """Every mistake and warning. The deployment's parts are each valid on their own already, those of `unread` files stand-ins."""
    findings = Findings(deployment, trees, unread=unread, uncertain=uncertain)
    check_tenants(findings)
    check_actions_are_unique(findings)
    check_broker(findings, environment)
    check_identity_providers(findings)
    check_clients(findings)
    check_providers(findings, own_providers)
    check_connections(findings)
    check_secrets(findings)
    check_zones(findings)
    return findings.problems

"""Whether each secret is called by its use: the Terraform module gives it to functions by the beginning of its name."""

from __future__ import annotations

from collections.abc import Iterator

from cab.adapters.configuration.checks.findings import AGENTS, CONNECTIONS, IDENTITY_PROVIDERS, Findings
from cab.adapters.configuration.yaml_tree import Place
from cab.adapters.secret_names import OF_ASSERTIONS, OF_CLIENTS, OF_IDPS, OF_PROVIDERS
from cab.domain.configured.clients import ClientSecret
from cab.domain.configured.connections import SecretReference
from cab.domain.configured.deployment import Deployment


def check_secrets(findings: Findings) -> None:
    for file, place, named, beginning in secrets_of(findings.deployment):
        if not named.secret.startswith(beginning):
            message = f"permissions go by a secret's name, and `{named.secret}` does not begin with {beginning}"
            remedy = "make one that does: else those that need it may not read it, or others may"
            findings.add(file, (*place, "secret"), message, remedy, severity="warning")


def secrets_of(deployment: Deployment) -> Iterator[tuple[str, Place, SecretReference, str]]:
    """Every secret that the configuration refers to: file and place, the secret, and how its name should begin."""
    for number, provider in enumerate(deployment.identity_providers):
        at: Place = ("identity_providers", number, "login", "client_secret")
        yield IDENTITY_PROVIDERS, at, provider.login.client_secret, OF_IDPS
    for number, connection in enumerate(deployment.connections):
        if connection.client_secret is not None:
            yield CONNECTIONS, ("connections", number, "client_secret"), connection.client_secret, OF_PROVIDERS
        if connection.assertion_key is not None:
            yield CONNECTIONS, ("connections", number, "assertion_key"), connection.assertion_key, OF_ASSERTIONS
    for number, agent in enumerate(deployment.agents):
        for position, method in enumerate(agent.authentication):
            if isinstance(method, ClientSecret):
                yield AGENTS, ("agents", number, "authentication", position, "secret"), method.secret, OF_CLIENTS

"""What a deployment needs in its project. Names and readers are those of the Terraform module, which a test holds to this page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cab.adapters.sealed_documents import DATA_KEY_SECRET
from cab.domain.configured.clients import ClientSecret
from cab.domain.configured.connections import SecretReference
from cab.domain.configured.deployment import Deployment
from cab.stores.signing_keys import SECRET as SIGNING_SECRET
from cab.stores.signing_keys import Issuer
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET

DATABASES: Final = ("approvals", "grants", "guards", "keys", "unsent")
READ_ROLE: Final = "roles/secretmanager.secretAccessor"

_READERS: Final = {
    SIGNING_SECRET[Issuer.EDGE]: ("mint_assertion",),
    SIGNING_SECRET[Issuer.STS]: ("exchange_token",),
    ESCROW_SECRET: ("refresh_grants",),
    DATA_KEY_SECRET: ("connect_account", "refresh_grants"),
}
_READERS_BY_PREFIX: Final = {
    "cab-provider-": ("connect_account", "refresh_grants"),
    "cab-assertion-": ("refresh_grants",),
    "cab-idp-": ("connect_account",),
    "cab-client-": ("exchange_token",),
}


def readers_of(secret: str) -> tuple[str, ...] | None:
    """The functions that may read a secret, None for a name that no permission goes by."""
    if secret in _READERS:
        return _READERS[secret]
    return next((names for prefix, names in _READERS_BY_PREFIX.items() if secret.startswith(prefix)), None)


def member(function: str, project: str) -> str:
    """The IAM member that a function runs as."""
    return f"serviceAccount:{function.replace('_', '-')}@{project}.iam.gserviceaccount.com"


def own_secrets() -> tuple[str, ...]:
    """The secrets that `cab keys init` fills."""
    return tuple(_READERS)


def configured_secrets(deployment: Deployment) -> list[tuple[str, int]]:
    """Name and version of every secret that the configuration refers to."""
    return sorted({(it.secret, it.version) for it in _references(deployment)})


def _references(deployment: Deployment) -> Iterator[SecretReference]:
    for provider in deployment.identity_providers:
        yield provider.login.client_secret
    for connection in deployment.connections:
        yield from (it for it in (connection.client_secret, connection.assertion_key) if it is not None)
    for agent in deployment.agents:
        yield from (method.secret for method in agent.authentication if isinstance(method, ClientSecret))

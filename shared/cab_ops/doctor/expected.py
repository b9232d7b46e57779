"""What a deployment needs in its project. Names and readers are those of the Terraform module, which a test holds to this page."""

from __future__ import annotations

from typing import Final

from cab.adapters.configuration.checks.secrets import secrets_of
from cab.adapters.sealed_documents import DATA_KEY_SECRET
from cab.adapters.secret_names import OF_ASSERTIONS, OF_CLIENTS, OF_IDPS, OF_PROVIDERS
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
    OF_PROVIDERS: ("connect_account", "refresh_grants"),
    OF_ASSERTIONS: ("refresh_grants",),
    OF_IDPS: ("connect_account",),
    OF_CLIENTS: ("exchange_token",),
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
    return sorted({(named.secret, named.version) for _, _, named, _ in secrets_of(deployment)})

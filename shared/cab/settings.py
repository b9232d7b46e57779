"""What each function reads from its environment, checked when the process starts: a wrong setting stops the revision, not a caller.

Settings say where things are; what is allowed is in the configuration folder (`CAB_CONFIG_DIR`). Emulator variables
(`FIRESTORE_EMULATOR_HOST` and the like) are read by the adapters, as the official clients do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

AccountEmail = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+@[a-z0-9.-]+\Z")]
GOOGLE_ISSUER = "https://accounts.google.com"
GOOGLE_JWKS_URI = "https://www.googleapis.com/oauth2/v3/certs"


class FunctionSettings(BaseModel):
    """Common to all functions. A field's alias is its environment variable."""

    model_config = ConfigDict(
        extra="ignore",
        hide_input_in_errors=True,
        frozen=True,
        regex_engine="python-re",  # the patterns end in \Z, which the other engine does not know
        defer_build=True,  # a process reads the settings of one function
    )

    project: str = Field(alias="GOOGLE_CLOUD_PROJECT", min_length=1)
    revision: str = Field(default="local", alias="K_REVISION", description="Set by Cloud Run.")
    google_issuer: str = Field(
        default=GOOGLE_ISSUER, alias="CAB_GOOGLE_ISSUER", description="Issuer of service identities."
    )
    google_jwks_uri: str = Field(default=GOOGLE_JWKS_URI, alias="CAB_GOOGLE_JWKS_URI")

    trace_ratio: float = Field(
        default=0,
        ge=0,
        le=1,
        alias="CAB_TRACE_RATIO",
        description="Which part of all traces is recorded; 0: none, at no cost.",
    )
    trace_endpoint: str = Field(
        default="https://telemetry.googleapis.com/v1/traces",
        alias="CAB_TRACE_ENDPOINT",
        pattern=r"^(https://[^/?#@]+|http://127\.0\.0\.1:\d+)(/[^?#]*)?\Z",
        description="Where spans go, as OTLP over HTTP.",
    )

    @property
    def in_the_cloud(self) -> bool:
        return "K_SERVICE" in os.environ


class ConfiguredSettings(FunctionSettings):
    """Functions that decide something: they read the deployment's configuration folder."""

    config_dir: Path = Field(alias="CAB_CONFIG_DIR")
    secret_location: str | None = Field(
        default=None, alias="CAB_SECRET_LOCATION", min_length=1, description="Region in which new secrets are kept."
    )
    kms_key: str | None = Field(
        default=None,
        alias="CAB_KMS_KEY",
        pattern=r"^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+\Z",
        description="Key of the organisation under which new secrets are encrypted.",
    )

    @model_validator(mode="after")
    def _a_key_has_a_location(self) -> ConfiguredSettings:
        if self.kms_key is not None and self.secret_location is None:
            raise ValueError("CAB_KMS_KEY needs CAB_SECRET_LOCATION: a key encrypts secrets of its own region")
        return self

    @model_validator(mode="after")
    def _folder_is_there(self) -> ConfiguredSettings:
        if not (self.config_dir / "broker.yaml").is_file():
            raise ValueError("CAB_CONFIG_DIR must name a folder that holds broker.yaml")
        return self


class AuditingSettings(ConfiguredSettings):
    """Functions whose decisions are audited."""

    audit_topic: str = Field(default="cab-audit", alias="CAB_AUDIT_TOPIC", min_length=3)


class MintAssertionSettings(AuditingSettings):
    """mint_assertion"""


class ExchangeTokenSettings(AuditingSettings):
    """exchange_token"""

    refresh_grants_url: str = Field(alias="CAB_REFRESH_GRANTS_URL", pattern=r"^https?://[^/?#]+\Z")
    own_url: str | None = Field(
        default=None,
        alias="CAB_EXCHANGE_TOKEN_URL",
        pattern=r"^https?://[^/?#]+\Z",
        description="Audience of its internal callers' tokens.",
    )
    call_callers: tuple[AccountEmail, ...] = Field(
        default=(), alias="CAB_CALL_CALLERS", description="Accounts that may call /internal/calls; none: nobody."
    )

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        return _split_lists(values, "CAB_CALL_CALLERS")

    @model_validator(mode="after")
    def _callers_need_an_audience(self) -> ExchangeTokenSettings:
        if self.call_callers and self.own_url is None:
            raise ValueError("CAB_CALL_CALLERS needs CAB_EXCHANGE_TOKEN_URL, the audience of their tokens")
        return self


class CallToolSettings(AuditingSettings):
    """call_tool"""

    exchange_token_url: str = Field(
        alias="CAB_EXCHANGE_TOKEN_URL",
        pattern=r"^https?://[^/?#]+\Z",
        description="Where calls are decided; also the audience of this function's token there.",
    )


class PublishMetadataSettings(ConfiguredSettings):
    """publish_metadata"""


class RefreshGrantsSettings(AuditingSettings):
    """refresh_grants"""

    own_url: str = Field(
        alias="CAB_REFRESH_GRANTS_URL", pattern=r"^https?://[^/?#]+\Z", description="Audience of its callers' tokens."
    )
    due_topic: str = Field(default="cab-grants-due", alias="CAB_GRANTS_DUE_TOPIC", min_length=3)
    token_callers: tuple[AccountEmail, ...] = Field(
        alias="CAB_TOKEN_CALLERS", description="Accounts that may call /grants/token, separated by commas."
    )
    revoke_callers: tuple[AccountEmail, ...] = Field(
        alias="CAB_REVOKE_CALLERS", description="Accounts that may call /grants/revoke."
    )
    sweep_callers: tuple[AccountEmail, ...] = Field(
        alias="CAB_SWEEP_CALLERS", description="Accounts that may call /grants/sweep and /grants/due."
    )

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        return _split_lists(values, "CAB_TOKEN_CALLERS", "CAB_REVOKE_CALLERS", "CAB_SWEEP_CALLERS")


class ConnectAccountSettings(AuditingSettings):
    """connect_account"""

    refresh_grants_url: str = Field(alias="CAB_REFRESH_GRANTS_URL", pattern=r"^https?://[^/?#]+\Z")


class IngestAuditSettings(FunctionSettings):
    """ingest_audit: needs no configuration folder, it only checks and writes."""

    own_url: str = Field(
        alias="CAB_INGEST_AUDIT_URL", pattern=r"^https?://[^/?#]+\Z", description="Audience of the push tokens."
    )
    push_account: AccountEmail = Field(alias="CAB_PUSH_ACCOUNT", description="The one account that may deliver.")
    subscription: str = Field(alias="CAB_AUDIT_SUBSCRIPTION", pattern=r"^projects/[^/]+/subscriptions/[^/]+\Z")
    quarantine_topic: str = Field(default="cab-audit-quarantine", alias="CAB_QUARANTINE_TOPIC", min_length=3)
    dataset: str = Field(default="cab_audit", alias="CAB_AUDIT_DATASET", min_length=1)
    table: str = Field(default="events_raw", alias="CAB_AUDIT_TABLE", min_length=1)
    rows_file: Path | None = Field(
        default=None,
        alias="CAB_AUDIT_ROWS_FILE",
        description="Local only: append rows to this file where BigQuery is not available.",
    )

    @model_validator(mode="after")
    def _no_file_in_the_cloud(self) -> IngestAuditSettings:
        if self.rows_file is not None and self.in_the_cloud:
            raise ValueError("CAB_AUDIT_ROWS_FILE is for the local stack only")
        return self


_Settings = TypeVar("_Settings", bound=FunctionSettings)


def load(kind: type[_Settings]) -> _Settings:
    """The settings from the environment, or exit with one sentence per mistake: variable and remedy, never a value."""
    try:
        return kind.model_validate(dict(os.environ))
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or kind.__name__}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    sys.exit(f"{kind.__name__}: this function cannot start. Set its environment right: " + "; ".join(problems))


def _split_lists(values: Any, *names: str) -> Any:
    """Lists are written in variables with commas between their items."""
    for name in names:
        if isinstance(values.get(name), str):
            values[name] = tuple(part.strip() for part in values[name].split(",") if part.strip())
    return values

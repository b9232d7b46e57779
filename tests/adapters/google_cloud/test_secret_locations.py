"""Where new secrets are kept: in the deployment's own region and under its own key, if it names them."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud import secretmanager_v1
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport
from grpc import insecure_channel

from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.settings import ConnectAccountSettings, load
from gcp_emulators import Emulators

KEY = "projects/p/locations/europe-west6/keyRings/cab/cryptoKeys/cab"


def replication(emulators: Emulators, project: str, secret: str) -> Any:
    transport = SecretManagerServiceGrpcTransport(channel=insecure_channel(emulators.address("secret_manager")))
    with secretmanager_v1.SecretManagerServiceClient(transport=transport) as client:
        return client.get_secret(name=f"projects/{project}/secrets/{secret}").replication


async def test_a_secret_stays_in_the_region_and_under_the_key(emulators: Emulators, project: str) -> None:
    vault = SecretManagerVault(project, location="europe-west6", kms_key=KEY)
    await vault.create("cab-grant-a")
    await vault.close()
    (replica,) = replication(emulators, project, "cab-grant-a").user_managed.replicas
    assert (replica.location, replica.customer_managed_encryption.kms_key_name) == ("europe-west6", KEY)


async def test_a_secret_of_no_named_region_is_placed_by_google(emulators: Emulators, project: str) -> None:
    vault = SecretManagerVault(project)
    await vault.create("cab-grant-a")
    await vault.close()
    assert "automatic" in replication(emulators, project, "cab-grant-a")


def test_a_key_without_a_region_stops_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    monkeypatch.setenv("CAB_CONFIG_DIR", "examples/acme")
    monkeypatch.setenv("CAB_REFRESH_GRANTS_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CAB_KMS_KEY", KEY)
    with pytest.raises(SystemExit, match="CAB_KMS_KEY needs CAB_SECRET_LOCATION"):
        load(ConnectAccountSettings)

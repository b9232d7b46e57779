"""The contract of Secret Manager that the documentation and issue threads describe, on the embedded emulator.

There is no official emulator to compare with.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import grpc
import grpc.aio
import pytest
from google.api_core.exceptions import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from google.cloud.secretmanager import SecretManagerServiceAsyncClient, SecretManagerServiceClient
from google.cloud.secretmanager_v1.services.secret_manager_service import transports
from google.cloud.secretmanager_v1.types import SecretVersion
from google.protobuf.field_mask_pb2 import FieldMask

from gcp_emulators import Emulators

State = SecretVersion.State
AUTOMATIC: dict[str, Any] = {"replication": {"automatic": {}}}


class Vault:
    """One test's project, with short names for what its tests do."""

    def __init__(self, client: SecretManagerServiceClient, project: str) -> None:
        self.client = client
        self.parent = f"projects/{project}"

    def create(self, secret_id: str = "cab-grant-1", **secret: Any) -> Any:
        return self.client.create_secret(
            request={"parent": self.parent, "secret_id": secret_id, "secret": AUTOMATIC | secret}
        )

    def add(self, payload: bytes, secret_id: str = "cab-grant-1", **options: Any) -> Any:
        return self.client.add_secret_version(
            request={"parent": self.name(secret_id), "payload": {"data": payload, **options}}
        )

    def read(self, version: str, secret_id: str = "cab-grant-1") -> bytes:
        return bytes(self.client.access_secret_version(name=self.version(version, secret_id)).payload.data)

    def name(self, secret_id: str = "cab-grant-1") -> str:
        return f"{self.parent}/secrets/{secret_id}"

    def version(self, version: str, secret_id: str = "cab-grant-1") -> str:
        return f"{self.name(secret_id)}/versions/{version}"


@pytest.fixture
def vault(secrets: SecretManagerServiceClient, project: str) -> Vault:
    return Vault(secrets, project)


def last_part(name: str) -> str:
    return name.rpartition("/")[2]


# Secrets


def test_a_secret_is_created_with_what_was_asked_for(vault: Vault) -> None:
    created = vault.create(labels={"kind": "grant"}, annotations={"note": "Über 1"})
    found = vault.client.get_secret(name=vault.name())
    assert found == created
    assert last_part(found.name) == "cab-grant-1"
    assert dict(found.labels) == {"kind": "grant"}
    assert dict(found.annotations) == {"note": "Über 1"}
    assert "automatic" in found.replication
    assert found.create_time.timestamp() > 0


def test_names_in_answers_carry_the_project_number_and_are_accepted_as_names(vault: Vault) -> None:
    created = vault.create()
    number = created.name.split("/")[1]
    assert number.isdigit()
    assert vault.client.get_secret(name=created.name) == created
    version = vault.client.add_secret_version(parent=created.name, payload={"data": b"x"})
    assert version.name == f"{created.name}/versions/1"
    assert vault.client.access_secret_version(name=version.name).name == version.name
    assert vault.read("1") == b"x"


def test_a_second_secret_of_that_name_is_refused(vault: Vault) -> None:
    vault.create()
    with pytest.raises(AlreadyExists):
        vault.create()


@pytest.mark.parametrize("secret_id", ["", "with space", "a/b", "x" * 256, "dot.ted"])
def test_a_bad_secret_id_is_refused(vault: Vault, secret_id: str) -> None:
    with pytest.raises(InvalidArgument):
        vault.create(secret_id)


def test_a_secret_without_replication_is_refused(vault: Vault) -> None:
    with pytest.raises(InvalidArgument):
        vault.client.create_secret(request={"parent": vault.parent, "secret_id": "s", "secret": {}})


def test_a_missing_secret_is_not_found(vault: Vault) -> None:
    with pytest.raises(NotFound):
        vault.client.get_secret(name=vault.name())
    with pytest.raises(NotFound):
        vault.add(b"x")
    with pytest.raises(NotFound):
        vault.client.delete_secret(name=vault.name())
    with pytest.raises(NotFound):
        vault.client.list_secret_versions(parent=vault.name())


def test_a_name_of_another_form_is_refused(vault: Vault) -> None:
    with pytest.raises(InvalidArgument):
        vault.client.get_secret(name="secrets/cab-grant-1")
    with pytest.raises(InvalidArgument):
        vault.client.access_secret_version(name=vault.name())


def test_an_update_changes_the_masked_fields_only(vault: Vault) -> None:
    created = vault.create(labels={"a": "1"}, annotations={"b": "2"})
    updated = vault.client.update_secret(
        secret={"name": vault.name(), "labels": {"c": "3"}, "annotations": {}}, update_mask={"paths": ["labels"]}
    )
    assert dict(updated.labels) == {"c": "3"}
    assert dict(updated.annotations) == {"b": "2"}
    assert updated.etag != created.etag


@pytest.mark.parametrize("paths", [[], ["replication"], ["name"], ["nonsense"]])
def test_an_update_of_no_field_or_a_fixed_one_is_refused(vault: Vault, paths: list[str]) -> None:
    vault.create()
    with pytest.raises(InvalidArgument):
        vault.client.update_secret(secret={"name": vault.name()}, update_mask=FieldMask(paths=paths))


def test_a_deleted_secret_takes_its_versions_along(vault: Vault) -> None:
    vault.create()
    vault.add(b"old")
    vault.client.delete_secret(name=vault.name())
    vault.create()
    with pytest.raises(NotFound):
        vault.read("latest")
    assert last_part(vault.add(b"new").name) == "1"


def test_secrets_are_listed_newest_first_in_pages(vault: Vault) -> None:
    for number in range(5):
        vault.create(f"secret-{number}")
    pages = list(vault.client.list_secrets(request={"parent": vault.parent, "page_size": 2}).pages)
    assert [[last_part(secret.name) for secret in page.secrets] for page in pages] == [
        ["secret-4", "secret-3"],
        ["secret-2", "secret-1"],
        ["secret-0"],
    ]
    assert pages[0].total_size == 5


def test_secrets_of_other_projects_are_not_listed(vault: Vault) -> None:
    vault.create()
    Vault(vault.client, last_part(vault.parent) + "-2").create()
    assert len(list(vault.client.list_secrets(parent=vault.parent))) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("labels.env=prod", ["xx"]),
        ("labels.env:*", ["yy", "xx"]),
        ("labels.env=prod AND name:xx", ["xx"]),
        ("labels.env=prod AND name:yy", []),
        ('labels.env="test"', ["yy"]),
    ],
)
def test_secrets_are_filtered_by_labels_and_name(vault: Vault, text: str, found: list[str]) -> None:
    vault.create("xx", labels={"env": "prod"})
    vault.create("yy", labels={"env": "test"})
    vault.create("zz")
    listed = vault.client.list_secrets(request={"parent": vault.parent, "filter": text})
    assert [last_part(secret.name) for secret in listed] == found


def test_a_filter_that_cannot_be_read_is_refused(vault: Vault) -> None:
    with pytest.raises(InvalidArgument):
        vault.client.list_secrets(request={"parent": vault.parent, "filter": "labels.env ~ prod OR"})


def test_regional_secrets_need_no_replication(vault: Vault) -> None:
    parent = f"{vault.parent}/locations/europe-west6"
    created = vault.client.create_secret(request={"parent": parent, "secret_id": "s", "secret": {}})
    vault.client.add_secret_version(parent=created.name, payload={"data": b"here"})
    name = f"{parent}/secrets/s/versions/latest"
    assert vault.client.access_secret_version(name=name).payload.data == b"here"


# Versions


def test_versions_are_numbered_from_one_without_gaps(vault: Vault) -> None:
    vault.create()
    first = vault.add(b"a")
    with pytest.raises(InvalidArgument):
        vault.add(b"refused", data_crc32c=1)
    vault.client.destroy_secret_version(name=first.name)
    assert [last_part(first.name), last_part(vault.add(b"b").name)] == ["1", "2"]


def test_a_version_is_read_by_number_right_after_it_was_added(vault: Vault) -> None:
    vault.create()
    vault.add(b"\x00first")
    vault.add(b"second")
    assert [vault.read("1"), vault.read("2"), vault.read("latest")] == [b"\x00first", b"second", b"second"]


def test_a_read_returns_the_checksum_of_the_payload(vault: Vault) -> None:
    vault.create()
    vault.add(b"payload")
    payload = vault.client.access_secret_version(name=vault.version("1")).payload
    assert payload.data_crc32c == google_crc32c.value(b"payload")


def test_a_checksum_that_matches_is_noted_and_one_that_does_not_is_refused(vault: Vault) -> None:
    vault.create()
    added = vault.add(b"payload", data_crc32c=google_crc32c.value(b"payload"))
    assert added.client_specified_payload_checksum
    assert not vault.add(b"payload").client_specified_payload_checksum
    with pytest.raises(InvalidArgument):
        vault.add(b"payload", data_crc32c=google_crc32c.value(b"other"))


def test_a_payload_has_at_most_64_kibibytes(vault: Vault) -> None:
    vault.create()
    vault.add(b"x" * 65_536)
    with pytest.raises(InvalidArgument):
        vault.add(b"x" * 65_537)


@pytest.mark.parametrize("version", ["1", "latest", "some-alias", "0", "²"])
def test_a_missing_version_is_not_found(vault: Vault, version: str) -> None:
    vault.create()
    with pytest.raises(NotFound):
        vault.read(version)


def test_versions_are_listed_newest_first_in_pages_and_by_state(vault: Vault) -> None:
    vault.create()
    for number in range(3):
        vault.add(str(number).encode())
    vault.client.disable_secret_version(name=vault.version("2"))
    pages = list(vault.client.list_secret_versions(request={"parent": vault.name(), "page_size": 2}).pages)
    assert [[last_part(version.name) for version in page.versions] for page in pages] == [["3", "2"], ["1"]]
    enabled = vault.client.list_secret_versions(request={"parent": vault.name(), "filter": "state:ENABLED"})
    assert [last_part(version.name) for version in enabled] == ["3", "1"]


def test_a_disabled_version_cannot_be_read_until_it_is_enabled(vault: Vault) -> None:
    vault.create()
    vault.add(b"x")
    assert vault.client.disable_secret_version(name=vault.version("1")).state == State.DISABLED
    with pytest.raises(FailedPrecondition, match="is in DISABLED state"):
        vault.read("1")
    assert vault.client.enable_secret_version(name=vault.version("1")).state == State.ENABLED
    assert vault.read("1") == b"x"


def test_latest_is_the_newest_version_whatever_its_state(vault: Vault) -> None:
    vault.create()
    vault.add(b"one")
    vault.add(b"two")
    vault.client.disable_secret_version(name=vault.version("latest"))
    with pytest.raises(FailedPrecondition):
        vault.read("latest")
    assert vault.read("1") == b"one"


def test_a_destroyed_version_is_gone_for_good(vault: Vault) -> None:
    vault.create()
    vault.add(b"x")
    destroyed = vault.client.destroy_secret_version(name=vault.version("1"))
    assert destroyed.state == State.DESTROYED
    assert destroyed.destroy_time.timestamp() > 0
    with pytest.raises(FailedPrecondition, match="is in DESTROYED state"):
        vault.read("1")
    for change in (
        vault.client.enable_secret_version,
        vault.client.disable_secret_version,
        vault.client.destroy_secret_version,
    ):
        with pytest.raises(FailedPrecondition):
            change(name=vault.version("1"))
    assert vault.client.get_secret_version(name=vault.version("1")).state == State.DESTROYED


def test_an_alias_names_a_version_that_exists(vault: Vault) -> None:
    vault.create()
    vault.add(b"one")
    vault.add(b"two")
    mask = {"paths": ["version_aliases"]}
    secret = {"name": vault.name(), "version_aliases": {"current": 1}}
    vault.client.update_secret(secret=secret, update_mask=mask)
    assert vault.read("current") == b"one"
    missing = {"name": vault.name(), "version_aliases": {"current": 3}}
    with pytest.raises(InvalidArgument):
        vault.client.update_secret(secret=missing, update_mask=mask)


def test_etags_are_quoted_and_a_stale_one_is_refused(vault: Vault) -> None:
    created = vault.create()
    version = vault.add(b"x")
    assert created.etag.startswith('"')
    assert version.etag.endswith('"')
    with pytest.raises(FailedPrecondition):
        vault.client.destroy_secret_version(request={"name": version.name, "etag": '"stale"'})
    with pytest.raises(FailedPrecondition):
        vault.client.delete_secret(request={"name": created.name, "etag": '"stale"'})
    disabled = vault.client.disable_secret_version(request={"name": version.name, "etag": version.etag})
    with pytest.raises(FailedPrecondition):
        vault.client.destroy_secret_version(request={"name": version.name, "etag": version.etag})
    vault.client.destroy_secret_version(request={"name": version.name, "etag": disabled.etag})


# IAM


def test_a_policy_is_kept_but_not_enforced(vault: Vault) -> None:
    vault.create()
    vault.add(b"x")
    binding = {"role": "roles/secretmanager.secretAccessor", "members": ["user:nobody@example.com"]}
    kept = vault.client.set_iam_policy(request={"resource": vault.name(), "policy": {"bindings": [binding]}})
    found = vault.client.get_iam_policy(request={"resource": vault.name()})
    assert found == kept
    assert [b.role for b in found.bindings] == [binding["role"]]
    assert vault.read("1") == b"x"


def test_all_permissions_are_granted(vault: Vault) -> None:
    vault.create()
    wanted = ["secretmanager.versions.add", "secretmanager.versions.access"]
    answer = vault.client.test_iam_permissions(request={"resource": vault.name(), "permissions": wanted})
    assert list(answer.permissions) == wanted


async def test_the_asynchronous_client_works_alike(embedded: Emulators, project: str) -> None:
    async with grpc.aio.insecure_channel(embedded.address("secret_manager")) as channel:
        transport = transports.SecretManagerServiceGrpcAsyncIOTransport(channel=channel)
        client = SecretManagerServiceAsyncClient(transport=transport)
        secret = await client.create_secret(parent=f"projects/{project}", secret_id="s", secret=AUTOMATIC)
        version = await client.add_secret_version(parent=secret.name, payload={"data": b"x"})
        assert (await client.access_secret_version(name=version.name)).payload.data == b"x"
        listed = await client.list_secret_versions(parent=secret.name)
        assert [last_part(found.name) async for found in listed] == ["1"]
        with pytest.raises(NotFound):
            await client.access_secret_version(name=f"{secret.name}/versions/2")

"""The embedded emulators under a table of permissions: what is refused, in which words, and what is noted as used."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import PermissionDenied
from google.cloud import firestore, secretmanager
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceGrpcTransport
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab_dev.permissions import rows_for
from cab_dev.processes.ports import PortLeases
from gcp_emulators.embedded import Rights, serving
from gcp_emulators.permissions.projects import project_number
from gcp_emulators.permissions.table import Condition, Table, bindings_of, permissions_of, used_file
from gcp_emulators.storage import MEMORY

PROJECT = "demo"
NUMBER = project_number(PROJECT)
GRANTS = (
    f'resource.name.startsWith("projects/{NUMBER}/secrets/cab-grant-") && '
    f'!resource.name.startsWith("projects/{NUMBER}/secrets/cab-grant-data-key")'
)


def row(identity: str, permission: str, resource: str, condition: str | None = None) -> dict[str, Any]:
    return {"identity": identity, "permissions": [permission], "resource": resource, "condition": condition}


def replace(path: Path, rows: list[dict[str, Any]]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rows), "utf-8")
    part.replace(path)


@asynccontextmanager
async def a_service(service: Any, path: Path) -> AsyncIterator[tuple[str, str]]:
    """The address for everybody, and that of `worker`."""
    with PortLeases() as leases:
        port = leases.take_free()
        rights = Rights(Table(path), {"worker": port})
        async with serving({service: 0}, control_port=0, data_dir=MEMORY, token_source=None, rights=rights) as running:
            yield running.services[service], f"127.0.0.1:{port}"


def secrets_at(address: str) -> secretmanager.SecretManagerServiceClient:
    transport = SecretManagerServiceGrpcTransport(channel=grpc.insecure_channel(address))
    return secretmanager.SecretManagerServiceClient(transport=transport)


async def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(PermissionDenied) as refusal:
        await asyncio.to_thread(call)
    return str(refusal.value.message)


async def test_a_move_may_do_all_that_it_does_as_refresh_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a secret for each grant, which others make where people connect, and away from there."""
    path = tmp_path / "rights.json"
    replace(path, [it | {"identity": "worker"} for it in rows_for(PROJECT) if it["identity"] == "refresh_grants"])
    async with a_service("secret_manager", path) as (_, worker):
        monkeypatch.setenv("SECRET_MANAGER_EMULATOR_HOST", worker)
        vault = SecretManagerVault(PROJECT, location="europe-west1")
        await vault.create("cab-grant-1")
        version = await vault.add("cab-grant-1", b"tokens")
        assert await vault.access("cab-grant-1", version) == b"tokens"
        await vault.destroy("cab-grant-1", version)
        await vault.close()


async def test_secrets_open_only_to_whom_they_are_given_within_the_condition(tmp_path: Path) -> None:
    path = tmp_path / "rights.json"
    replace(
        path,
        [
            row("worker", "secretmanager.versions.access", f"projects/{PROJECT}", GRANTS),
            row("worker", "secretmanager.secrets.create", f"projects/{PROJECT}"),
            row("other", "secretmanager.versions.access", f"projects/{PROJECT}"),
        ],
    )
    async with a_service("secret_manager", path) as (everything, worker):
        owner, mine = secrets_at(everything), secrets_at(worker)
        for name in ("cab-grant-1", "cab-grant-data-key", "cab-sts-signing"):
            secret: dict[str, Any] = {"replication": {"automatic": {}}}
            parent = f"projects/{PROJECT}"
            create = mine.create_secret if name == "cab-grant-1" else owner.create_secret
            await asyncio.to_thread(create, parent=parent, secret_id=name, secret=secret)
            add = {"parent": f"{parent}/secrets/{name}", "payload": {"data": b"x"}}
            await asyncio.to_thread(owner.add_secret_version, request=add)

        def version(name: str) -> str:
            return f"projects/{PROJECT}/secrets/{name}/versions/1"

        read = await asyncio.to_thread(mine.access_secret_version, name=version("cab-grant-1"))
        assert read.payload.data == b"x"
        for name in ("cab-grant-data-key", "cab-sts-signing"):
            said = await refused(lambda name=name: mine.access_secret_version(name=version(name)))  # type: ignore[misc]
            assert said == (
                f"Permission 'secretmanager.versions.access' denied for resource "
                f"'projects/{NUMBER}/secrets/{name}/versions/1' (or it may not exist)."
            )
        resource = f"projects/{PROJECT}/secrets/cab-grant-1"
        asked = ["secretmanager.versions.access", "secretmanager.versions.destroy"]
        tested = await asyncio.to_thread(
            mine.test_iam_permissions, request={"resource": resource, "permissions": asked}
        )
        assert list(tested.permissions) == ["secretmanager.versions.access"]
        await refused(lambda: mine.destroy_secret_version(name=version("cab-grant-1")))
        await refused(lambda: mine.list_secrets(parent=f"projects/{PROJECT}"))
    used = [json.loads(line) for line in used_file(path).read_text("utf-8").splitlines()]
    assert [(identity, permission) for identity, permission, *_ in used] == [
        ("worker", "secretmanager.secrets.create"),
        ("worker", "secretmanager.versions.access"),
    ]


async def test_a_database_is_written_only_by_whom_its_condition_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rights.json"
    named = 'resource.name == "projects/demo/databases/{}"'
    reader = {**row("worker", "", f"projects/{PROJECT}", named.format("grants"))}
    reader["permissions"] = sorted(permissions_of("roles/datastore.viewer"))
    creator = row("worker", "datastore.entities.create", f"projects/{PROJECT}", named.format("guards"))
    replace(path, [reader, creator])
    async with a_service("firestore", path) as (_, worker):
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", worker)
        grants, guards = (firestore.Client(project=PROJECT, database=name) for name in ("grants", "guards"))
        assert not (await asyncio.to_thread(grants.document("grants/1").get)).exists
        assert await asyncio.to_thread(lambda: list(grants.collection("grants").stream())) == []
        assert await refused(lambda: grants.document("grants/1").create({"n": 1})) == (
            "Missing or insufficient permissions."
        )
        await asyncio.to_thread(lambda: guards.document("seen/1").create({"n": 1}))
        await refused(lambda: guards.document("seen/1").set({"n": 2}))  # may change what is there
        await refused(lambda: guards.document("seen/1").update({"n": 2}))
        await refused(lambda: guards.document("seen/1").delete())
        await refused(guards.document("seen/1").get)
        grants.close()
        guards.close()


async def test_a_topic_takes_events_only_from_its_publishers_and_a_change_counts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rights.json"
    replace(path, [])
    topic = f"projects/{PROJECT}/topics/cab-audit"
    async with a_service("pubsub", path) as (everything, worker):
        owner, mine = (
            PublisherClient(transport=PublisherGrpcTransport(channel=grpc.insecure_channel(address)))
            for address in (everything, worker)
        )
        await asyncio.to_thread(owner.create_topic, name=topic)
        message = {"topic": topic, "messages": [{"data": b"x"}]}

        def publish() -> Any:
            return mine.publish(request=message, retry=None)

        assert await refused(publish) == "User not authorized to perform this action."
        replace(path, [row("worker", "pubsub.topics.publish", topic)])
        os.utime(path, ns=(1, 1))
        assert len((await asyncio.to_thread(publish)).message_ids) == 1
        await refused(lambda: mine.delete_topic(topic=topic))


def test_a_condition_that_is_not_understood_is_no_condition_that_is_met() -> None:
    for expression in ("true", 'resource.name == "a" || true', 'resource.type == "x"', ""):
        with pytest.raises(ValueError, match="not understood"):
            Condition(expression)


def test_what_is_given_below_a_resource_is_not_given_beside_it() -> None:
    given = [
        *bindings_of([row("x", "p", "projects/a/topics/cab-audit")]),
        *bindings_of([row("x", "p", "projects/a/secrets/cab-idp-*")]),
    ]

    def has(resource: str) -> bool:
        return any(binding.gives("p", resource, resource) for binding in given)

    assert has("projects/a/topics/cab-audit")
    assert has("projects/a/topics/cab-audit/x")
    assert has("projects/a/secrets/cab-idp-acme/versions/1")
    assert not has("projects/a/topics/cab-audit-quarantine")
    assert not has("projects/a/secrets/cab-provider-crm")
    assert not has("projects/a")


def test_the_rows_of_the_stack_name_its_own_project_and_no_other() -> None:
    rows = rows_for("demo-cab")
    assert "{" not in "".join(f"{it['resource']}{it['condition']}" for it in rows)
    assert all(it["permissions"] for it in rows)
    assert len(bindings_of(rows)) >= 70

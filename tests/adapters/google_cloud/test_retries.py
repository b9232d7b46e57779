"""What is tried again, and what is not because it might then be done twice."""

from __future__ import annotations

import logging

import pytest
from tests.adapters.google_cloud.http_server import HttpServer, serving

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.ports import AlreadyExists, Create, Delete, NotFound, Tally, Unavailable
from gcp_emulators.control_client import ControlClient
from gcp_emulators.faults import CallFault

CANARY = "canary-3f9a"


def fault(method: str, **what: object) -> CallFault:
    service = "secret_manager" if "Secret" in method else "firestore"
    return CallFault.model_validate({"service": service, "method": method, "status": "UNAVAILABLE", **what})


@pytest.fixture
async def store(control: ControlClient, project: str):  # type: ignore[no-untyped-def]
    adapter = FirestoreDocuments(project, "guards")
    yield adapter
    await adapter.close()


@pytest.fixture
async def vault(control: ControlClient, project: str):  # type: ignore[no-untyped-def]
    adapter = SecretManagerVault(project)
    await adapter.create("s")
    yield adapter
    await adapter.close()


@pytest.mark.parametrize("status", ["UNAVAILABLE", "ABORTED"])
async def test_a_read_is_tried_again(
    store: FirestoreDocuments, control: ControlClient, project: str, status: str
) -> None:
    control.add_fault(fault("BatchGetDocuments", status=status, times=2))
    assert await store.read("a/b") is None
    assert control.counts(project)["firestore.BatchGetDocuments"] == 3


async def test_a_find_is_tried_again(store: FirestoreDocuments, control: ControlClient, project: str) -> None:
    control.add_fault(fault("RunQuery", times=2))
    assert await store.find("a") == []
    assert control.counts(project)["firestore.RunQuery"] == 3


async def test_a_read_is_given_up_after_three_attempts(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    control.add_fault(fault("BatchGetDocuments"))
    with pytest.raises(Unavailable):
        await store.read("a/b")
    assert control.counts(project)["firestore.BatchGetDocuments"] == 3


async def test_a_create_whose_answer_is_lost_is_not_tried_again_and_has_happened(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    control.add_fault(fault("Commit", when="after", times=1))
    with pytest.raises(Unavailable):
        await store.write(Create("a/b", {}))
    assert control.counts(project)["firestore.Commit"] == 1
    with pytest.raises(AlreadyExists):
        await store.write(Create("a/b", {}))


async def test_a_tally_whose_answer_is_lost_counts_once(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    control.add_fault(fault("Commit", when="after", times=1))
    with pytest.raises(Unavailable):
        await store.tally(Tally("a/b", add={"n": 1}))
    assert control.counts(project)["firestore.Commit"] == 1
    assert await store.tally(Tally("a/b", add={"n": 1})) == {"n": 2}


async def test_a_write_that_certainly_did_not_happen_is_tried_again(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    control.add_fault(fault("Commit", status="ABORTED", times=1))
    await store.write(Create("a/b", {}))
    assert await store.tally(Tally("a/c", add={"n": 1})) == {"n": 1}
    assert control.counts(project)["firestore.Commit"] == 3


@pytest.mark.parametrize(
    "status", ["PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"]
)
async def test_every_other_status_is_unavailable(
    store: FirestoreDocuments, control: ControlClient, status: str
) -> None:
    control.add_fault(fault("*", status=status))
    with pytest.raises(Unavailable):
        await store.read("a/b")
    with pytest.raises(Unavailable):
        await store.write(Create("a/b", {}), Delete("a/c", 1))


async def test_nothing_that_a_server_says_reaches_an_exception_or_the_log(
    store: FirestoreDocuments, control: ControlClient, caplog: pytest.LogCaptureFixture
) -> None:
    control.add_fault(fault("Commit", status="INTERNAL", details=f"bad value {CANARY}"))
    with caplog.at_level(logging.DEBUG, logger="cab"), pytest.raises(Unavailable) as unavailable:
        await store.write(Create("a/b", {"secret": CANARY}))
    assert "INTERNAL" in caplog.text
    assert CANARY not in caplog.text + repr(unavailable.value)
    assert unavailable.value.__context__ is None


async def test_a_write_whose_connection_ends_is_sent_once_and_a_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a connection that was kept, too: whether its server had heard the write before it hung up, nobody knows."""
    answer = {"writeResults": [{"updateTime": "2026-11-21T12:00:00.123456789Z"}]}
    async with serving(HttpServer(body=answer)) as server:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"localhost:{server.port}")
        store = FirestoreDocuments("demo", "guards")
        await store.write(Create("a/a", {}))
        server.hangs_up = True
        with pytest.raises(Unavailable):
            await store.write(Create("a/b", {}))
        assert (len(server.heads), server.connected) == (2, 1)
        with pytest.raises(Unavailable):
            await store.tally(Tally("a/c", add={"n": 1}))
        assert (len(server.heads), server.connected) == (3, 2)
        with pytest.raises(Unavailable):
            await store.read("a/b")
        assert len(server.heads) == 6
        await store.close()


async def test_an_access_is_tried_again_soon(vault: SecretManagerVault, control: ControlClient, project: str) -> None:
    version = await vault.add("s", b"payload")
    control.add_fault(fault("AccessSecretVersion", times=2))
    assert await vault.access("s", version) == b"payload"
    assert control.counts(project)["secret_manager.AccessSecretVersion"] == 3


async def test_a_version_that_does_not_exist_is_asked_for_once(
    vault: SecretManagerVault, control: ControlClient, project: str
) -> None:
    with pytest.raises(NotFound):
        await vault.access("s", 1)
    assert control.counts(project)["secret_manager.AccessSecretVersion"] == 1


async def test_an_add_whose_answer_is_lost_is_not_tried_again_and_has_happened(
    vault: SecretManagerVault, control: ControlClient, project: str
) -> None:
    control.add_fault(fault("AddSecretVersion", when="after", times=1))
    with pytest.raises(Unavailable):
        await vault.add("s", b"payload")
    assert control.counts(project)["secret_manager.AddSecretVersion"] == 1
    assert await vault.access("s", 1) == b"payload"


async def test_whether_a_write_is_allowed_follows_the_permission(
    vault: SecretManagerVault, control: ControlClient
) -> None:
    control.add_fault(fault("AddSecretVersion", status="PERMISSION_DENIED"))
    assert not await vault.may_add("s")
    control.clear_faults()
    assert await vault.may_add("s")

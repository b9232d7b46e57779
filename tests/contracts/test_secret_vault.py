"""The contract of `SecretVault`: one suite, every adapter. Google offers no emulator of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.adapters.sealed_documents import DATA_KEY_SECRET, SealedDocumentsVault
from cab.ports import NotFound, SecretVault, Unavailable
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.secrets import InMemoryVault


@pytest.fixture(params=["memory", "embedded", "sealed-memory", "sealed-embedded"])
async def vault(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, project: str
) -> AsyncIterator[SecretVault]:
    """Driver one in memory and on Secret Manager; driver two over documents in memory and in Firestore."""
    if request.param == "memory":
        yield InMemoryVault()
        return
    if request.param == "sealed-memory":
        yield SealedDocumentsVault(InMemoryDocuments(), await with_data_key(InMemoryVault()))
        return
    emulators = request.getfixturevalue("embedded")
    monkeypatch.setenv("SECRET_MANAGER_EMULATOR_HOST", emulators.address("secret_manager"))
    adapter = SecretManagerVault(project)
    if request.param == "embedded":
        yield adapter
    else:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulators.address("firestore"))
        documents = FirestoreDocuments(project, "grants")
        yield SealedDocumentsVault(documents, await with_data_key(adapter))
        await documents.close()
    await adapter.close()


async def with_data_key(keys: SecretVault) -> SecretVault:
    await keys.create(DATA_KEY_SECRET)
    await keys.add(DATA_KEY_SECRET, b"k" * 32)
    return keys


async def test_a_version_is_read_by_its_number(vault: SecretVault) -> None:
    await vault.create("cab-grant-a")
    assert await vault.add("cab-grant-a", b"first") == 1
    assert await vault.add("cab-grant-a", b"\x00second\xff") == 2
    assert await vault.access("cab-grant-a", 1) == b"first"
    assert await vault.access("cab-grant-a", 2) == b"\x00second\xff"


async def test_creating_a_secret_twice_is_fine_and_keeps_its_versions(vault: SecretVault) -> None:
    await vault.create("cab-grant-a")
    await vault.add("cab-grant-a", b"payload")
    await vault.create("cab-grant-a")
    assert await vault.access("cab-grant-a", 1) == b"payload"


async def test_a_version_that_does_not_exist_is_not_found(vault: SecretVault) -> None:
    with pytest.raises(NotFound):
        await vault.access("cab-grant-a", 1)
    await vault.create("cab-grant-a")
    with pytest.raises(NotFound):
        await vault.access("cab-grant-a", 1)


async def test_a_miss_does_not_hide_the_version_that_is_added_next(vault: SecretVault) -> None:
    await vault.create("cab-grant-a")
    for number in range(1, 6):
        with pytest.raises(NotFound):
            await vault.access("cab-grant-a", number)
        assert await vault.add("cab-grant-a", str(number).encode()) == number
        assert await vault.access("cab-grant-a", number) == str(number).encode()


async def test_a_destroyed_version_is_not_found_and_the_others_stay(vault: SecretVault) -> None:
    await vault.create("cab-grant-a")
    await vault.add("cab-grant-a", b"first")
    await vault.add("cab-grant-a", b"second")
    await vault.destroy("cab-grant-a", 1)
    with pytest.raises(NotFound):
        await vault.access("cab-grant-a", 1)
    assert await vault.access("cab-grant-a", 2) == b"second"
    assert await vault.add("cab-grant-a", b"third") == 3


async def test_destroying_is_idempotent(vault: SecretVault) -> None:
    await vault.create("cab-grant-a")
    await vault.add("cab-grant-a", b"first")
    await vault.destroy("cab-grant-a", 1)
    await vault.destroy("cab-grant-a", 1)
    await vault.destroy("cab-grant-a", 7)
    await vault.destroy("cab-grant-none", 1)
    assert await vault.add("cab-grant-a", b"second") == 2, (
        "a number is never given twice, nor that of a destroyed version"
    )


async def test_concurrent_adds_get_a_number_each(vault: SecretVault) -> None:
    await vault.create("cab-grant-a")
    payloads = [str(number).encode() for number in range(20)]
    versions = await asyncio.gather(*(vault.add("cab-grant-a", payload) for payload in payloads))
    assert sorted(versions) == list(range(1, 21))
    read = await asyncio.gather(*(vault.access("cab-grant-a", version) for version in versions))
    assert read == payloads


async def test_adding_to_a_secret_that_does_not_exist_fails(vault: SecretVault) -> None:
    with pytest.raises(Unavailable):
        await vault.add("cab-grant-none", b"payload")


async def test_a_payload_over_64_kib_is_refused(vault: SecretVault) -> None:
    await vault.create("cab-grant-a")
    assert await vault.add("cab-grant-a", b"x" * 65_536) == 1
    with pytest.raises(Unavailable):
        await vault.add("cab-grant-a", b"x" * 65_537)


async def test_whether_a_write_would_be_allowed_is_known_without_writing(vault: SecretVault) -> None:
    await vault.create("cab-grant-a")
    assert await vault.may_add("cab-grant-a")
    with pytest.raises(NotFound):
        await vault.access("cab-grant-a", 1)


@pytest.mark.parametrize("version", ["latest", 0, -1, True, 1.0, "1"])
async def test_only_numbers_name_a_version(vault: SecretVault, version: int) -> None:
    with pytest.raises(ValueError, match="number"):
        await vault.access("cab-grant-a", version)
    with pytest.raises(ValueError, match="number"):
        await vault.destroy("cab-grant-a", version)


@pytest.mark.parametrize("secret", ["", "a/b", "a.b", "a\n", "../x", "x" * 256])
async def test_a_secret_id_cannot_reach_another_resource(vault: SecretVault, secret: str) -> None:
    with pytest.raises(ValueError, match="secret id"):
        await vault.access(secret, 1)
    with pytest.raises(ValueError, match="secret id"):
        await vault.create(secret)
    with pytest.raises(ValueError, match="secret id"):
        await vault.add(secret, b"")
    with pytest.raises(ValueError, match="secret id"):
        await vault.may_add(secret)

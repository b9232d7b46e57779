"""The cache before a secret reader."""

from __future__ import annotations

import asyncio

import pytest

from cab.adapters.keys.cached_secrets import CachedSecretReader
from cab.ports import NotFound, Unavailable
from cab_dev.fakes.secrets import InMemoryVault


@pytest.fixture
async def vault() -> InMemoryVault:
    vault = InMemoryVault()
    await vault.create("key")
    for payload in (b"1", b"2", b"3"):
        await vault.add("key", payload)
    return vault


async def test_a_version_is_accessed_once(vault: InMemoryVault) -> None:
    reader = CachedSecretReader(vault)
    assert [await reader.access("key", version) for version in (1, 2, 1, 2)] == [b"1", b"2", b"1", b"2"]
    assert vault.calls["access"] == 2


async def test_first_readers_share_one_access_and_one_that_leaves_disturbs_nobody(vault: InMemoryVault) -> None:
    vault.delay_s = 0.01
    reader = CachedSecretReader(vault)
    reads = [asyncio.create_task(reader.access("key", 1)) for _ in range(20)]
    await asyncio.sleep(0)
    reads[0].cancel()
    answers = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert set(answers[1:]) == {b"1"}
    assert vault.calls["access"] == 1


async def test_failures_are_not_kept(vault: InMemoryVault) -> None:
    reader = CachedSecretReader(vault)
    vault.is_down = True
    with pytest.raises(Unavailable):
        await reader.access("key", 1)
    vault.is_down = False
    assert await reader.access("key", 1) == b"1"
    with pytest.raises(NotFound):
        await reader.access("key", 4)
    await vault.add("key", b"4")
    assert await reader.access("key", 4) == b"4"


async def test_only_the_versions_used_last_are_kept(vault: InMemoryVault) -> None:
    reader = CachedSecretReader(vault, capacity=2)
    for version in (1, 2, 1, 3):  # 3 displaces 2
        await reader.access("key", version)
    vault.calls.clear()
    for version in (1, 3):
        await reader.access("key", version)
    assert vault.calls == {}
    await reader.access("key", 2)
    assert vault.calls == {"access": 1}

"""What driver two adds to the contract of `SecretVault`: payloads nobody can read, move or change in the documents."""

from __future__ import annotations

import asyncio

import pytest

from cab.adapters.sealed_documents import DATA_KEY_SECRET, SealedDocumentsVault
from cab.ports import NotFound, Replace, Unavailable
from cab_dev.fakes.documents import InMemoryDocuments, Outage
from cab_dev.fakes.secrets import InMemoryVault

PAYLOAD = b'{"refresh_token":"canary-of-a-refresh-token"}'


async def a_vault() -> tuple[SealedDocumentsVault, InMemoryDocuments, InMemoryVault]:
    documents, keys = InMemoryDocuments(), InMemoryVault()
    await keys.create(DATA_KEY_SECRET)
    await keys.add(DATA_KEY_SECRET, b"1" * 32)
    vault = SealedDocumentsVault(documents, keys)
    for secret in ("a", "b"):
        await vault.create(secret)
    return vault, documents, keys


async def copy(documents: InMemoryDocuments, source: str, target: str) -> None:
    found, replaced = await documents.read(source), await documents.read(target)
    assert found is not None
    assert replaced is not None
    await documents.write(Replace(target, found.fields, replaced.version))


async def test_no_payload_can_be_read_in_the_documents() -> None:
    vault, documents, _ = await a_vault()
    await vault.add("a", PAYLOAD)
    assert b"canary" not in repr(documents._documents).encode()


@pytest.mark.parametrize("target", ["payloads/b.1", "payloads/a.2"])
async def test_a_payload_opens_only_where_it_was_sealed_for(target: str) -> None:
    vault, documents, _ = await a_vault()
    await vault.add("a", PAYLOAD)
    await vault.add("a", b"second")
    await vault.add("b", b"of another user")
    await copy(documents, "payloads/a.1", target)
    secret, _, version = target.removeprefix("payloads/").partition(".")
    with pytest.raises(NotFound):
        await vault.access(secret, int(version))


async def test_a_changed_byte_is_noticed() -> None:
    vault, documents, _ = await a_vault()
    await vault.add("a", PAYLOAD)
    document = await documents.read("payloads/a.1")
    assert document is not None
    sealed = document.fields["sealed"]
    for position in range(0, len(sealed) - 2, 7):
        changed = "B" if sealed[position] == "A" else "A"
        fields = document.fields | {"sealed": sealed[:position] + changed + sealed[position + 1 :]}
        current = await documents.read("payloads/a.1")
        assert current is not None
        await documents.write(Replace("payloads/a.1", fields, current.version))
        with pytest.raises(NotFound):
            await vault.access("a", 1)


async def test_old_payloads_stay_readable_when_a_new_data_key_is_used() -> None:
    vault, documents, keys = await a_vault()
    await vault.add("a", b"old")
    await keys.add(DATA_KEY_SECRET, b"2" * 32)
    renewed = SealedDocumentsVault(documents, keys, key_version=2)
    assert await renewed.add("a", b"new") == 2
    assert [await renewed.access("a", number) for number in (1, 2)] == [b"old", b"new"]


async def test_a_missing_data_key_is_an_outage_and_no_missing_payload() -> None:
    """Were it NotFound, every grant would be put in quarantine for it."""
    vault, _, keys = await a_vault()
    await vault.add("a", PAYLOAD)
    await keys.destroy(DATA_KEY_SECRET, 1)
    for call in (vault.access("a", 1), vault.add("a", PAYLOAD), vault.may_add("a")):
        with pytest.raises(Unavailable):
            await call


@pytest.mark.parametrize("after", [False, True])
async def test_a_write_of_unknown_outcome_is_told_and_leaves_no_gap(after: bool) -> None:
    vault, documents, _ = await a_vault()
    documents.outage = Outage(frozenset({"write"}), after=after, times=1)
    with pytest.raises(Unavailable):
        await vault.add("a", b"first")
    assert await vault.add("a", b"second") == 1 + after
    assert await vault.access("a", 1) == (b"first" if after else b"second")


async def test_fifty_that_add_at_once_get_a_number_each() -> None:
    vault, documents, _ = await a_vault()
    documents.delay_s = 0.001
    numbers = await asyncio.gather(*(vault.add("a", b"%d" % number) for number in range(50)))
    assert sorted(numbers) == list(range(1, 51))

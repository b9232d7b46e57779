"""Rotating the keys that token sets are sealed under, while serving: each configuration opens what the one before and the next have sealed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from tests.grants.grant_world import GrantWorld
from tests.support.world import deployment

import cab_ops.cli.keys
from cab.adapters.keys.cached_secrets import CachedSecretReader
from cab.adapters.sealed_documents import DATA_KEY_SECRET
from cab.bootstrap.shared import Parts
from cab.domain.grants import Grant
from cab.ports import Unavailable
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET, Escrow, seal_token_set
from cab_dev.fakes.documents import InMemoryDocuments
from cab_dev.fakes.secrets import InMemoryVault
from cab_ops.cli import main


async def keys(*versions: bytes) -> InMemoryVault:
    vault = InMemoryVault()
    for secret in (ESCROW_SECRET, DATA_KEY_SECRET):
        await vault.create(secret)
        for version in versions:
            await vault.add(secret, version * 32)
    return vault


async def a_grant() -> Grant:
    world = GrantWorld()
    name = await world.connect("alice")
    return await world.grant(name)


async def sealed_by(escrow: Escrow, grant: Grant) -> Grant:
    return grant.model_copy(update={"escrow": seal_token_set(await escrow.key(), grant, b"tokens")})


@pytest.mark.parametrize(("sealed", "opened"), [(1, 1), (1, 2), (2, 1), (1, 4), (3, 2)])
async def test_instances_of_two_configurations_open_each_other_s_escrow(sealed: int, opened: int) -> None:
    vault = await keys(b"1", b"2", b"3", b"4")
    grant = await sealed_by(Escrow(vault, sealed), await a_grant())
    assert await Escrow(vault, opened).open(grant) == b"tokens"


async def test_an_escrow_of_a_key_far_away_is_nothing_that_fits() -> None:
    vault = await keys(b"1", b"2", b"3")
    grant = await sealed_by(Escrow(vault, 3), await a_grant())
    assert await Escrow(vault, 1).open(grant) is None


async def test_a_version_that_is_configured_and_not_there_spends_nothing() -> None:
    vault = await keys(b"1")
    grant = await sealed_by(Escrow(vault, 1), await a_grant())
    with pytest.raises(Unavailable):
        await Escrow(vault, 2).key()
    with pytest.raises(Unavailable):
        await Escrow(vault, 2).open(grant)


async def test_new_payloads_are_sealed_under_the_configured_version() -> None:
    vault, documents = await keys(b"1", b"2"), InMemoryDocuments()
    configured = deployment()
    changes = {"grant_storage": "sealed_documents", "grant_data_key": 2}
    parts: Any = object.__new__(Parts)
    parts.deployment = replace(configured, broker=configured.broker.model_copy(update=changes))
    parts.documents = lambda _name: documents
    parts._secrets = CachedSecretReader(vault)
    vault = parts._vault_of("sealed_documents")
    await vault.create("cab-grant-x")
    await vault.add("cab-grant-x", b"tokens")
    stored = await documents.read("payloads/cab-grant-x.1")
    assert stored is not None
    assert stored.fields["key_version"] == 2


def test_the_command_adds_a_version_and_says_what_to_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = asyncio.run(keys(b"1"))

    class Stores:
        def __init__(self) -> None:
            self.vault = vault

    monkeypatch.setattr(cab_ops.cli.keys, "run", lambda _project, work: asyncio.run(work(Stores())))
    done = CliRunner().invoke(main, ["keys", "add-data-key", "--of", "escrow", "--project", "p"])
    assert done.exit_code == 0
    assert "`escrow_key: 2`" in done.output
    assert len(asyncio.run(vault.access(ESCROW_SECRET, 2))) == 32

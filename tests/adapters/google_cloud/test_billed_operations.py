"""What calls are billed as, read from the emulators' call log: the input of the prices in docs/performance.md and docs/capacity.md."""

from __future__ import annotations

import asyncio

from benchmarks.operations import billed

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.ports import Create, Delete, Replace, Tally
from gcp_emulators.control_client import ControlClient


async def test_each_document_and_each_secret_counts_however_calls_are_shared(
    control: ControlClient, project: str
) -> None:
    store, vault = FirestoreDocuments(project, "guards"), SecretManagerVault(project)
    await vault.create("cab-a")
    version = await vault.add("cab-a", b"x")
    control.clear_calls(project)
    await asyncio.gather(
        store.read("grants/a"),
        store.read("grants/b"),
        store.write(Create("single_use/a", {})),
        store.tally(Tally("rate_limits/a", add={"n": 1})),
    )
    await store.read("grants/a")
    await store.write(Create("approval_requests/a", {}), Create("approval_requests/b", {}))
    await store.write(Delete("approval_requests/a"))  # which it would have cost at its end, too
    await store.write(Replace("approval_requests/b", {"n": 1}, version=None))
    await store.tally(Tally("rate_limits/a", add={"n": 1}))
    await vault.access("cab-a", version)
    assert billed(control.calls(project)) == (3, 6, 4, 1)
    await store.close()
    await vault.close()

"""The grant's document: its fields keep the names that they had when they were first written."""

from __future__ import annotations

from datetime import UTC, datetime

from cab.domain.configured.connections import RotationClass
from cab.domain.grants import Grant
from cab.ports import Create
from cab.stores.grants import Grants
from cab_dev.fakes.documents import InMemoryDocuments

NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def a_grant(name: str = "g") -> Grant:
    return Grant(
        grant_id=name,
        tenant="acme",
        subject="s",
        connection="crm",
        provider="p",
        provider_class=RotationClass.STRICT,
        secret_version=7,
        refresh_version=5,
        base_version=6,
        connected_at=NOON,
    )


async def test_a_document_has_the_field_names_of_the_first_release_and_no_others_for_versions() -> None:
    documents = InMemoryDocuments()
    await Grants(documents).create(a_grant())
    stored = await documents.read("grants/g")
    assert stored is not None
    versions = {name: value for name, value in stored.fields.items() if "ver" in name}
    assert versions == {"secret_ver": 7, "refresh_ver": 5, "base_ver": 6}


async def test_a_document_of_the_first_release_is_read_whole() -> None:
    documents = InMemoryDocuments()
    first = {
        "grant_id": "g",
        "tenant": "acme",
        "subject": "s",
        "connection": "crm",
        "provider": "p",
        "provider_class": "strict",
        "connected_at": NOON,
        "secret_ver": 7,
        "refresh_ver": 5,
        "base_ver": 6,
    }
    await documents.write(Create("grants/g", first))
    stored = await Grants(documents).read("g")
    assert stored is not None
    assert stored.grant == a_grant()

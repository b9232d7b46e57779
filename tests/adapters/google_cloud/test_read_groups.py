"""Reads that meet travel together, and nobody can tell from the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from tests.adapters.google_cloud.http_server import HttpServer, serving

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.ports import Create, Document, Unavailable
from gcp_emulators.control_client import ControlClient
from gcp_emulators.faults import CallFault


@pytest.fixture
async def store(control: ControlClient, project: str) -> AsyncIterator[FirestoreDocuments]:
    adapter = FirestoreDocuments(project, "guards")
    for number in range(3):
        await adapter.write(Create(f"things/{number}", {"n": number}))
    yield adapter
    await adapter.close()


def reads(control: ControlClient, project: str) -> dict[str, int]:
    counts = control.counts(project)
    return {name: count for name, count in counts.items() if "Get" in name}


async def test_each_gets_its_own_document_or_none(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    found = await asyncio.gather(*(store.read(f"things/{name}") for name in (2, "none", 0, 2, 1)))
    assert [None if document is None else document.fields for document in found] == [
        {"n": 2},
        None,
        {"n": 0},
        {"n": 2},
        {"n": 1},
    ]
    assert found[0] == found[3]
    assert reads(control, project) == {"firestore.BatchGetDocuments": 1}


async def test_what_is_read_together_is_what_is_read_alone(store: FirestoreDocuments) -> None:
    alone = [await store.read(f"things/{number}") for number in range(3)]
    assert await asyncio.gather(*(store.read(f"things/{number}") for number in range(3))) == alone


async def test_many_who_ask_for_one_document_read_it_once(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    found = await asyncio.gather(*(store.read("things/1") for _ in range(20)))
    assert {document.fields["n"] for document in found if document} == {1}
    assert reads(control, project) == {"firestore.BatchGetDocuments": 1}


async def test_no_answer_holds_values_that_another_caller_can_change(store: FirestoreDocuments) -> None:
    one, other = await asyncio.gather(store.read("things/1"), store.read("things/1"))
    assert one is not None
    assert other is not None
    one.fields["n"] = 7
    assert other.fields["n"] == 1


async def test_a_lost_call_is_tried_again_for_all(
    store: FirestoreDocuments, control: ControlClient, project: str
) -> None:
    fault = {"service": "firestore", "method": "BatchGetDocuments", "status": "UNAVAILABLE"}
    control.add_fault(CallFault.model_validate(fault | {"times": 2}))
    found = await asyncio.gather(*(store.read(f"things/{number}") for number in range(3)))
    assert [document.fields["n"] for document in found if document] == [0, 1, 2]
    assert reads(control, project) == {"firestore.BatchGetDocuments": 3}


async def test_when_it_stays_lost_each_is_told(store: FirestoreDocuments, control: ControlClient) -> None:
    fault = {"service": "firestore", "method": "BatchGetDocuments", "status": "UNAVAILABLE"}
    control.add_fault(CallFault.model_validate(fault))
    answers = await asyncio.gather(*(store.read(f"things/{number}") for number in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 3


async def test_a_document_of_which_the_answer_says_nothing_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "projects/demo/databases/guards/documents/things/0"
    async with serving(HttpServer(body=[{"missing": name}, {"readTime": "2026-11-21T12:00:00Z"}])) as server:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"localhost:{server.port}")
        store = FirestoreDocuments("demo", "guards")
        assert await store.read("things/0") is None
        answers = await asyncio.gather(store.read("things/0"), store.read("things/1"), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 2
        await store.close()


async def test_a_document_of_a_depth_that_none_has_is_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "projects/demo/databases/guards/documents/things/0"
    deep = '{"mapValue":{"fields":{"a":' * 338 + '{"integerValue":"1"}' + "}}}" * 338
    found = f'{{"name":"{name}","fields":{{"a":{deep}}},"updateTime":"2026-11-21T12:00:00Z"}}'
    body = f'[{{"found":{found}}}]'.encode()
    async with serving(HttpServer(body=body)) as server:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"localhost:{server.port}")
        store = FirestoreDocuments("demo", "guards")
        with pytest.raises(Unavailable):
            await store.read("things/0")
        await store.close()


NAME = "projects/demo/databases/guards/documents/things/0"
VERSION = "2026-11-21T12:00:00.000001Z"
FOUND: dict[str, Any] = {
    "name": NAME,
    "fields": {"text": {"stringValue": f'","updateTime":"{VERSION}"}},"readTime":"x"}}]'}},
    "createTime": "2026-11-21T11:00:00Z",
    "updateTime": "2026-11-21T12:00:00.000002Z",
}
READ = {"readTime": "2026-11-21T13:00:00Z"}


@pytest.mark.parametrize("indent", [0, orjson.OPT_INDENT_2])
@pytest.mark.parametrize(
    ("first", "second", "is_read"),
    [(VERSION, "other", False), (VERSION, "another", True), (VERSION, None, True)],
)
async def test_of_versions_that_are_all_known_the_fields_are_not_even_read(
    monkeypatch: pytest.MonkeyPatch, indent: int, first: str, second: str | None, *, is_read: bool
) -> None:
    found = [
        {"found": FOUND | {"fields": {"text": "UNREADABLE"}, "updateTime": VERSION}} | READ,
        {"found": FOUND | {"fields": {"text": "UNREADABLE"}, "updateTime": "other", "name": f"{NAME[:-1]}1"}} | READ,
    ]
    body = orjson.dumps(found, option=indent).replace(b'"UNREADABLE"', b"unreadable")
    async with serving(HttpServer(body=body)) as server:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"localhost:{server.port}")
        store = FirestoreDocuments("demo", "guards")
        answers = await asyncio.gather(
            store.read("things/0", known=first), store.read("things/1", known=second), return_exceptions=True
        )
        if is_read:
            assert [type(answer) for answer in answers] == [Unavailable] * 2
        else:
            assert list(answers) == [Document("things/0", {}, first), Document("things/1", {}, second)]
        await store.close()


@pytest.mark.parametrize(
    "answer",
    [
        [{"found": FOUND} | READ],  # the version is in a text
        [{"found": FOUND} | READ, {"found": FOUND | {"name": f"{NAME}1", "updateTime": VERSION}} | READ],
        [READ | {"found": FOUND}],
    ],
)
async def test_a_version_counts_only_where_firestore_says_it_of_the_document(
    monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    async with serving(HttpServer(body=answer)) as server:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"localhost:{server.port}")
        store = FirestoreDocuments("demo", "guards")
        document = await store.read("things/0", known=VERSION)
        assert document is not None
        assert (document.version, document.fields.keys()) == (FOUND["updateTime"], FOUND["fields"].keys())
        await store.close()


async def test_what_ends_with_an_error_is_no_answer_though_the_version_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = [{"found": FOUND | {"updateTime": VERSION}} | READ, {"error": {"status": "INTERNAL"}}]
    async with serving(HttpServer(body=body)) as server:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"localhost:{server.port}")
        store = FirestoreDocuments("demo", "guards")
        with pytest.raises(Unavailable):
            await store.read("things/0", known=VERSION)
        await store.close()

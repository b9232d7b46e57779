"""The hash chain that makes the audit record tamper-evident."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.domain.audit import AuditEvent, EventType, IntentFacts, Latency, Service, Subject, event_hash
from cab.encoding.records import adapter, as_json, members, unwrapped

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(['"chain":{', '\\"chain":{', '{"chain":{}}'])
# Beyond, the canonical form of a float is an integer that not every JSON reader can hold; no clock measures that.
NUMBER = st.floats(-1e15, 1e15) | st.sampled_from([0.0, -0.0, 1.0, 1e-5, 1e-7, 1e15])


def chain() -> AuditChain:
    return AuditChain("chain", Service(function="exchange_token", revision="r1"))


def event(**members: Any) -> AuditEvent:
    return AuditEvent(event_id="e", event_type=EventType.EXCHANGE_DECIDED, occurred_at=NOON, **members)


@given(text=TEXT, total=NUMBER, policy=NUMBER, groups=st.lists(TEXT), count=st.integers(-(2**53) + 1, 2**53 - 1))
def test_the_hash_of_any_event_can_be_recomputed_from_its_bytes_which_are_canonical(
    text: str, total: float, policy: float, groups: list[str], count: int
) -> None:
    sealed = chain().seal(
        event(
            subject=Subject(key=text, groups=groups),
            intent=IntentFacts(reason=text),
            latency_ms=Latency(total=total, policy=policy),
            count=count,
        )
    )
    document = json.loads(sealed.data)
    assert event_hash(document) == document["chain"]["hash"]
    assert sealed.data == rfc8785.dumps(document)


def test_nothing_but_latencies_has_fractions_which_is_where_sealing_looks_for_them() -> None:
    def fractions(kind: type, path: str = "") -> Iterator[str]:
        for member in members(kind):
            inner, _ = unwrapped(member.annotation)
            if isinstance(inner, type) and is_dataclass(inner):
                yield from fractions(inner, f"{path}{member.name}.")
            elif inner is float:
                yield path + member.name

    assert {name.rpartition(".")[0] for name in fractions(AuditEvent)} == {"latency_ms"}


def test_events_are_chained_in_the_order_of_the_calls() -> None:
    links = chain()
    documents = [json.loads(links.seal(event()).data) for _ in range(3)]
    assert [document["chain"]["seq"] for document in documents] == [1, 2, 3]
    assert [document["chain"]["prev_hash"] for document in documents] == [
        "",
        documents[0]["chain"]["hash"],
        documents[1]["chain"]["hash"],
    ]
    assert links.length == 3


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document.update(decision="permit"),
        lambda document: document.update(extra=1),
        lambda document: document["chain"].update(seq=2),
        lambda document: document["chain"].update(prev_hash="0"),
        lambda document: document["service"].update(function="other"),
        lambda document: document.pop("latency_ms"),
    ],
)
def test_any_edit_of_an_event_changes_its_hash(edit: Any) -> None:
    document = json.loads(chain().seal(event(decision="deny", latency_ms=Latency(total=1.5))).data)
    edit(document)
    assert event_hash(document) != document["chain"]["hash"]


def any_record(kind: Any) -> st.SearchStrategy[Any]:
    """Of a kind of record, with any members."""
    return st.builds(kind, **{member.name: any_value(member.annotation) for member in members(kind)})


def any_value(annotation: Any) -> st.SearchStrategy[Any]:
    inner, is_list = unwrapped(annotation)
    if isinstance(inner, type) and is_dataclass(inner):
        value = any_record(inner)
    else:
        plain: dict[Any, st.SearchStrategy[Any]] = {
            str: TEXT,
            int: st.integers(-(2**53) + 1, 2**53 - 1),
            float: NUMBER,
            datetime: st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=2))])),
        }
        value = plain[inner] if inner in plain else st.from_type(inner)
    if is_list:
        return st.lists(value, max_size=3)
    return value | st.none() if type(None) in get_args(annotation) else value


@settings(max_examples=50)
@given(record=any_record(AuditEvent))
def test_a_record_is_written_as_what_reads_records_would_write_it(record: AuditEvent) -> None:
    assert as_json(record) == adapter(AuditEvent).dump_python(record, mode="json", exclude_none=True)

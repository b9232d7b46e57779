"""The hash chain that makes the audit record tamper-evident."""

from __future__ import annotations

import json
import typing
from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain, canonical
from cab.domain.audit import AuditEvent, EventType, IntentFacts, Latency, Service, Subject, event_hash

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1.0, 1e-5, 1e-7, 1e15, 1e21, 1e22]
)


def chain() -> AuditChain:
    return AuditChain("chain", Service(function="exchange_token", revision="r1"))


def event(**members: Any) -> AuditEvent:
    return AuditEvent(event_id="e", event_type=EventType.EXCHANGE_DECIDED, occurred_at=NOON, **members)


@given(text=TEXT, total=NUMBER, policy=NUMBER, groups=st.lists(TEXT), count=st.integers(-(2**53) + 1, 2**53 - 1))
def test_the_hash_of_any_event_can_be_recomputed_from_its_bytes(
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


@given(total=NUMBER, policy=NUMBER)
def test_the_fast_form_is_the_canonical_form(total: float, policy: float) -> None:
    document: dict[str, Any] = {
        "b": "ä\u2028\u0007\n",
        "a": [None, True, 3],
        "latency_ms": {"total": total, "policy": policy},
    }
    expected = rfc8785.dumps(document)
    assert canonical(document) == expected


def floats_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The paths of all members that can hold a float."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        for kind in [field.annotation, *typing.get_args(field.annotation)]:
            if kind is float:
                found.add(prefix + name)
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= floats_of(kind, f"{prefix}{name}.")
    return found


def test_latencies_are_the_only_floats_of_an_event() -> None:
    assert floats_of(AuditEvent) == {f"latency_ms.{name}" for name in Latency.model_fields}


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

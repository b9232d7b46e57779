"""`authorization_details`: refused unless every member is defined and well-formed (RFC 9396 section 5), hashed canonically."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz
from tests.support.jose import ABSENT, b64, present

from cab.domain.errors import BrokerError, Reason
from cab.domain.intents import DeclaredIntent
from cab.domain.tasks import Task, TaskLimits
from cab.protocol.authorization_details import details_hash, parse_intent, parse_task, task_detail, task_digest

INTENT: dict[str, Any] = {
    "type": "cab_action",
    "actions": ["crm.opportunity.update"],
    "locations": ["http://127.0.0.1:8082"],
    "identifier": "opportunity/0061",
    "parameters": {"stage": "won", "amount_cents": 120000, "urgent": False},
    "task_id": "t-81",
    "reason": "shown to people, never used by policy",
}
TASK: dict[str, Any] = {
    "type": "cab_task",
    "task_id": "t-81",
    "trigger": "user_turn",
    "actions": ["crm.opportunity.*", "tracker.task.create"],
    "identifiers": ["opportunity/*", "task/*"],
    "limits": {"max_uses": 20},
    "request_digest": "sha-256:" + "A" * 43,
}


def refused(parse: Any, details: Any) -> str | None:
    """The member at fault."""
    with pytest.raises(BrokerError) as error:
        parse(details if isinstance(details, str) else json.dumps(details))
    assert error.value.reason is Reason.INTENT_MALFORMED
    return error.value.remedy.member


def test_the_example_of_the_contract_is_an_intent() -> None:
    assert parse_intent(json.dumps([INTENT])) == DeclaredIntent(
        type="cab_action",
        actions=("crm.opportunity.update",),
        locations=("http://127.0.0.1:8082",),
        identifier="opportunity/0061",
        parameters={"stage": "won", "amount_cents": 120000, "urgent": False},
        task_id="t-81",
        reason="shown to people, never used by policy",
    )


def test_the_example_of_the_contract_is_a_task() -> None:
    task = parse_task(json.dumps([TASK]))
    assert task == Task(
        type="cab_task",
        task_id="t-81",
        trigger="user_turn",
        actions=("crm.opportunity.*", "tracker.task.create"),
        identifiers=("opportunity/*", "task/*"),
        limits=TaskLimits(max_uses=20),
        request_digest="sha-256:" + "A" * 43,
    )
    assert task_detail(task) == TASK


def test_a_request_without_intent_is_told_so() -> None:
    with pytest.raises(BrokerError) as error:
        parse_intent(None)
    assert (error.value.reason, error.value.remedy.member) == (Reason.INTENT_MISSING, "authorization_details")


NOT_ONE_OBJECT = [
    "",
    "x",
    "null",
    "{}",
    "[]",
    "7",
    "[null]",
    "[[]]",
    "[7]",
    '["cab_action"]',
    json.dumps(INTENT),
    json.dumps([INTENT, INTENT]),
    json.dumps([INTENT] * 100),
    json.dumps([INTENT])[:-2],
    json.dumps([INTENT]).replace('"type"', '"type": "cab_action", "type"'),
    '[{"type":"cab_action","parameters":{"a":NaN}}]',
    "[" * 1000,
]


@pytest.mark.requirement("RFC9396-2-1")
@pytest.mark.parametrize("text", NOT_ONE_OBJECT, ids=lambda text: text[:30])
@pytest.mark.parametrize("parse", [parse_intent, parse_task])
def test_anything_but_an_array_of_one_object_is_refused(parse: Any, text: str) -> None:
    assert refused(parse, text) == "authorization_details"


@pytest.mark.requirement("RFC9396-5-1")
@pytest.mark.parametrize("kind", [ABSENT, None, "", "cab_task", "CAB_ACTION", "payment", ["cab_action"], 7])
def test_an_unknown_type_of_intent_is_refused(kind: Any) -> None:
    assert refused(parse_intent, [present(INTENT | {"type": kind})]) == "type"


@pytest.mark.requirement("RFC9396-5-1")
@pytest.mark.parametrize("kind", [ABSENT, "cab_action", "payment", None])
def test_an_unknown_type_of_task_is_refused(kind: Any) -> None:
    assert refused(parse_task, [present(TASK | {"type": kind})]) == "type"


@pytest.mark.requirement("RFC9396-5-2")
@pytest.mark.parametrize("name", ["datatypes", "privileges", "Type", "action", "resource", "x", "__proto__", "intent"])
def test_a_member_that_is_not_defined_is_refused_and_its_name_is_not_repeated(name: str) -> None:
    assert refused(parse_intent, [INTENT | {name: "x"}]) == "authorization_details"
    assert refused(parse_task, [TASK | {name: "x"}]) == "authorization_details"


WRONG_IN_INTENT: list[tuple[str, Any]] = [
    ("actions", ABSENT),
    ("actions", "crm.opportunity.update"),
    ("actions", []),
    ("actions", ["crm.a", "crm.b"]),
    ("actions", [7]),
    ("actions", ["crm"]),
    ("actions", ["CRM.update"]),
    ("actions", ["crm.*"]),
    ("actions", ["crm.update\n"]),
    ("actions", ["crm..update"]),
    ("actions", ["a." + "b" * 200]),
    ("locations", ABSENT),
    ("locations", []),
    ("locations", "http://127.0.0.1:8082"),
    ("locations", ["http://a.test", "http://b.test"]),
    ("locations", [""]),
    ("locations", ["h" * 501]),
    ("locations", [None]),
    ("identifier", ABSENT),
    ("identifier", ""),
    ("identifier", None),
    ("identifier", 61),
    ("identifier", ["opportunity/0061"]),
    ("identifier", "i" * 301),
    ("parameters", None),
    ("parameters", []),
    ("parameters", "stage=won"),
    ("parameters", {"stage": None}),
    ("parameters", {"stage": [["won"]]}),
    ("parameters", {"stage": [1]}),
    ("parameters", {"stage": {"to": "won"}}),
    ("parameters", {"amount": 1.5}),
    ("parameters", {"amount": 1e3}),
    ("parameters", {"": "x"}),
    ("parameters", {"n" * 65: "x"}),
    ("parameters", {f"p{number}": 1 for number in range(51)}),
    ("parameters", {"text": "x" * 32_768}),
    ("task_id", ""),
    ("task_id", 81),
    ("task_id", "t 81"),
    ("task_id", "t\n"),
    ("task_id", "t" * 129),
    ("task_id", "../t"),
    ("reason", 7),
    ("reason", ["r"]),
    ("reason", "r" * 501),
]


@pytest.mark.requirement("RFC9396-5-2")
@pytest.mark.parametrize(("name", "value"), WRONG_IN_INTENT, ids=lambda part: repr(part)[:40])
def test_a_missing_or_malformed_member_of_an_intent_is_named(name: str, value: Any) -> None:
    assert refused(parse_intent, [present(INTENT | {name: value})]) == name


WRONG_IN_TASK: list[tuple[str, Any]] = [
    ("task_id", ABSENT),
    ("task_id", ""),
    ("task_id", "t 81"),
    ("trigger", "cron"),
    ("trigger", None),
    ("trigger", ["user_turn"]),
    ("actions", ABSENT),
    ("actions", []),
    ("actions", "crm.*"),
    ("actions", [""]),
    ("actions", ["crm.*", "crm.*"]),
    ("actions", ["crm.*.read"]),
    ("actions", ["*.read"]),
    ("actions", ["crm.**"]),
    ("actions", ["crm.read\n"]),
    ("actions", [f"crm.a{number}" for number in range(51)]),
    ("identifiers", ABSENT),
    ("identifiers", []),
    ("identifiers", [f"deal/{number}" for number in range(101)]),
    ("identifiers", ["deal/?"]),
    ("identifiers", ["d" * 201]),
    ("limits", {}),
    ("limits", {"max_uses": 0}),
    ("limits", {"max_uses": -1}),
    ("limits", {"max_uses": True}),
    ("limits", {"max_uses": "20"}),
    ("limits", {"max_uses": 1.0}),
    ("limits", {"max_uses": 100_001}),
    ("limits", {"max_uses": 1, "per_hour": 1}),
    ("limits", []),
    ("request_digest", "A" * 43),
    ("request_digest", "sha-256:short"),
    ("request_digest", "md5:" + "A" * 43),
]


@pytest.mark.requirement("RFC9396-5-2")
@pytest.mark.parametrize(("name", "value"), WRONG_IN_TASK, ids=lambda part: repr(part)[:40])
def test_a_missing_or_malformed_member_of_a_task_is_named(name: str, value: Any) -> None:
    member = refused(parse_task, [present(TASK | {name: value})])
    assert member == name or (name == "limits" and member in ("limits", "authorization_details"))


@pytest.mark.parametrize("number", [2**64, 2**70, -(2**64), 10**30])
def test_an_integer_no_store_could_hold_is_refused(number: int) -> None:
    text = json.dumps([INTENT | {"parameters": {"amount": number}}])
    with pytest.raises(BrokerError) as error:
        parse_intent(text)
    assert error.value.reason is Reason.INTENT_MALFORMED


def test_parameters_of_32_kib_are_the_most() -> None:
    def with_text(length: int) -> str:
        return json.dumps([INTENT | {"parameters": {"t": "x" * length}}])

    most = 32_768 - len(b'{"t":""}')
    assert parse_intent(with_text(most)).parameters
    assert refused(parse_intent, with_text(most + 1)) == "parameters"
    assert refused(parse_intent, json.dumps([INTENT | {"parameters": {"t": "é" * (most // 2 + 1)}}])) == "parameters"


def test_what_is_wrong_is_never_quoted() -> None:
    canary = "canary-7f3a"
    for details in (
        [INTENT | {canary: 1}],
        [INTENT | {"identifier": [canary]}],
        [INTENT | {"parameters": {"stage": [[canary]]}}],
        [INTENT | {"actions": [canary]}],
    ):
        with pytest.raises(BrokerError) as error:
            parse_intent(json.dumps(details))
        assert canary not in error.value.detail + str(error.value) + str(error.value.remedy)


# --- intent_hash ---


@pytest.mark.requirement("RFC8785-3.2-1")
def test_the_hash_is_sha256_over_the_canonical_form_written_out_by_hand() -> None:
    detail = INTENT | {"parameters": {"b": 'quote " and \\', "a": "é\u20ac\n", "n": -5, "t": True}}
    canonical = (
        '[{"actions":["crm.opportunity.update"],"identifier":"opportunity/0061","locations":["http://127.0.0.1:8082"],'
        '"parameters":{"a":"é€\\n","b":"quote \\" and \\\\","n":-5,"t":true},"task_id":"t-81","type":"cab_action"}]'
    )
    assert details_hash([detail]) == "sha-256:" + b64(hashlib.sha256(canonical.encode()).digest())


def shuffled(value: Any, randomness: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        randomness.shuffle(names)
        return {name: shuffled(value[name], randomness) for name in names}
    return value


scalars = st.text(max_size=10) | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1)
details = st.fixed_dictionaries(
    {
        "type": st.just("cab_action"),
        "actions": st.lists(st.text(max_size=8), min_size=1, max_size=1),
        "locations": st.lists(st.text(max_size=8), min_size=1, max_size=1),
        "identifier": st.text(max_size=8),
        "parameters": st.dictionaries(st.text(max_size=5), scalars, max_size=4),
    },
    optional={"task_id": st.text(max_size=5)},
)


@given(details, st.randoms(use_true_random=False), st.text(max_size=20))
@fuzz(150)
def test_equal_meaning_gives_an_equal_hash(detail: dict[str, Any], randomness: random.Random, reason: str) -> None:
    """Order of members, spelling of the JSON and the agent's reason change nothing."""
    respelt = json.loads(json.dumps(shuffled(detail, randomness), ensure_ascii=randomness.random() < 0.5, indent=3))
    assert details_hash([respelt | {"reason": reason}]) == details_hash([detail])


@given(details, st.data())
@fuzz(200)
def test_any_change_gives_another_hash(detail: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(detail)
    where = data.draw(st.sampled_from(["identifier", "actions", "locations", "parameters", "add", "remove", "task_id"]))
    if where == "parameters" or where in ("add", "remove"):
        parameters = changed["parameters"]
        if where == "remove" and parameters:
            del parameters[data.draw(st.sampled_from(sorted(parameters)))]
        else:
            parameters[data.draw(st.text(max_size=5))] = data.draw(scalars)
    elif where in ("actions", "locations"):
        changed[where] = [data.draw(st.text(max_size=8))]
    else:
        changed[where] = data.draw(st.text(max_size=8))
    same = json.dumps(changed, sort_keys=True) == json.dumps(detail, sort_keys=True)
    assert (details_hash([changed]) == details_hash([detail])) == same


def test_values_that_python_calls_equal_hash_differently() -> None:
    """True == 1 in Python; an approval of one must never fit the other."""

    def hashed(value: Any) -> str:
        return details_hash([INTENT | {"parameters": {"p": value}}])

    assert len({hashed(value) for value in (1, True, "1", "true")}) == 4
    assert len({hashed(value) for value in (0, False, "", "0", "false")}) == 5


def test_the_number_and_order_of_details_count() -> None:
    other = INTENT | {"identifier": "opportunity/0062"}
    hashes = {details_hash(group) for group in ([], [INTENT], [INTENT, other], [other, INTENT], [INTENT, INTENT])}
    assert len(hashes) == 5


def test_the_digest_of_a_task_changes_with_every_bound() -> None:
    tasks = [
        TASK,
        TASK | {"task_id": "t-82"},
        TASK | {"trigger": "event"},
        TASK | {"actions": ["crm.*"]},
        TASK | {"identifiers": ["*"]},
        TASK | {"limits": {"max_uses": 21}},
        {name: value for name, value in TASK.items() if name != "limits"},
    ]
    assert len({task_digest(parse_task(json.dumps([task]))) for task in tasks}) == len(tasks)

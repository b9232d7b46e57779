"""Tools as clients see them, and what their arguments declare (docs/api.md)."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from tests.support.world import WAREHOUSE, deployment

from cab.domain.calls.tools import MAX_NAME_CHARS, detail_of, hints_of, input_schema, tools_of
from cab.domain.configured.actions import Action
from cab.domain.errors import BrokerError, Reason

ALL = ("tools.read", "tools.write", "tools.destructive")


def action(**changes: Any) -> Action:
    content = {
        "id": "crm.note.create",
        "title": "Write a note",
        "effect": "write",
        "identifier": "deal/{id}",
        "parameters": {
            "text": {"type": "text", "required": True, "description": "What to write."},
            "tags": {"type": "strings", "max_items": 3, "max_length": 10},
            "stage": {"type": "string", "values": ["open", "won"], "default": "open"},
            "amount": {"type": "integer", "minimum": 0, "maximum": 10},
            "urgent": {"type": "boolean"},
        },
        "call": {
            "method": "POST",
            "path": "/deals/{id}/notes",
            "body": {name: f"{{{name}}}" for name in ("text", "tags", "stage", "amount", "urgent")},
        },
    }
    return Action.model_validate_json(json.dumps(content | changes))


def declared(of: Action, arguments: dict[str, Any]) -> dict[str, Any]:
    return detail_of(of, deployment().connection_by_id["warehouse"], arguments, None)


GOOD = {"id": "d1", "text": "first\nsecond\tline", "tags": ["a", "b"], "amount": 10, "urgent": True, "reason": "asked"}
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("id", {"id": None}),
    ("id", {"id": "a/b"}),
    ("id", {"id": ".."}),
    ("id", {"id": 7}),
    ("text", {"text": None}),
    ("text", {"text": "x" * 16_385}),
    ("text", {"text": 1}),
    ("tags", {"tags": []}),
    ("tags", {"tags": ["a"] * 4}),
    ("tags", {"tags": ["x" * 11]}),
    ("tags", {"tags": [1]}),
    ("tags", {"tags": "a"}),
    ("stage", {"stage": "lost"}),
    ("amount", {"amount": 11}),
    ("amount", {"amount": True}),
    ("urgent", {"urgent": "true"}),
    ("other", {"other": 1}),
    ("reason", {"reason": "x" * 501}),
]


def test_the_schema_of_a_tool_describes_what_its_action_takes() -> None:
    schema = input_schema(action())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(GOOD, schema)
    assert schema["required"] == ["id", "text"]
    assert schema["properties"]["text"]["description"] == "What to write."
    assert schema["properties"]["stage"] == {
        "type": "string",
        "maxLength": 500,
        "enum": ["open", "won"],
        "default": "open",
    }
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_what_the_schema_refuses_is_refused_by_name(name: str, change: dict[str, Any]) -> None:
    arguments = {key: value for key, value in (GOOD | change).items() if value is not None}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(arguments, input_schema(action()))
    with pytest.raises(BrokerError) as refused:
        declared(action(), arguments)
    assert (refused.value.reason, refused.value.remedy.member) == (Reason.INTENT_MALFORMED, name)


def test_arguments_declare_one_intent() -> None:
    assert declared(action(), GOOD) == {
        "type": "cab_action",
        "actions": ["crm.note.create"],
        "locations": [WAREHOUSE],
        "identifier": "deal/d1",
        "parameters": {name: value for name, value in GOOD.items() if name not in ("id", "reason")},
        "reason": "asked",
    }


def test_hints_err_on_the_side_of_caution() -> None:
    assert hints_of(action()) == {
        "title": "Write a note",
        "readOnlyHint": False,
        "destructiveHint": False,
        "idempotentHint": False,
        "openWorldHint": True,
    }
    dropped = action(effect="destructive", parameters={}, call={"method": "DELETE", "path": "/deals/{id}"})
    assert (hints_of(dropped)["destructiveHint"], hints_of(dropped)["idempotentHint"]) == (True, True)


def names(**changes: Any) -> list[str]:
    configured = deployment()
    agent = configured.agent_by_id["caller"].model_copy(update=changes.pop("agent", {}))
    asked: dict[str, Any] = {"tenant": "acme", "scopes": ALL, "task_actions": None} | changes
    return [tool.name for tool in tools_of(configured, agent, **asked)]


def test_an_agent_sees_what_its_entry_its_scopes_and_its_task_allow() -> None:
    everything = names()
    reads = ["crm_deal_list", "warehouse_query_run", "warehouse_report_open"]
    changes = ["crm_deal_update", "warehouse_table_drop", "warehouse_table_write"]
    assert everything == sorted([*reads, *changes])
    assert names(scopes=("tools.read",)) == reads
    assert names(task_actions=("crm.*",)) == ["crm_deal_list", "crm_deal_update"]
    assert names(task_actions=()) == []
    assert names(agent={"actions": ("warehouse.table.*",)}) == changes[1:]
    assert names(tenant="globex") == [name for name in everything if name.startswith("warehouse")]
    assert all(len(name) <= MAX_NAME_CHARS and "." not in name for name in everything)


def test_long_text_has_its_own_length_and_short_text_keeps_it() -> None:
    of = action()
    assert (of.parameters["text"].longest, of.parameters["tags"].longest) == (16_384, 10)
    with pytest.raises(ValueError, match="at most 2000"):
        action(parameters={"text": {"type": "string", "max_length": 3000}}, call=None)
    with pytest.raises(ValueError, match="at most 1024"):
        action(parameters={"text": {"type": "strings", "max_length": 1025}}, call=None)


@pytest.mark.parametrize("text", ["a\u200bb", "a\u202eb", "a\x00b", "\U000e0041"])
def test_invisible_characters_are_no_text_of_an_intent(text: str) -> None:
    for arguments in (GOOD | {"text": text}, GOOD | {"tags": [text]}):
        with pytest.raises(BrokerError):
            declared(action(), arguments)

"""Calls of tools of MCP servers in the catalog: what may be configured, what is sent, and what a pin notices."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cab.domain.calls.pins import definition_pin, pins_of
from cab.domain.calls.rendering import render, repeats_safely
from cab.domain.configured.actions import Action
from cab.domain.configured.connections import Connection
from cab.domain.intents import Intent

PIN = "sha-256:" + "A" * 43
TOOL: dict[str, Any] = {"name": "find", "title": "Find", "description": "d", "inputSchema": {"type": "object"}}


def action(**call: Any) -> dict[str, Any]:
    return {
        "id": "notes.note.add",
        "title": "Add",
        "effect": "write",
        "identifier": "note/{id}",
        "parameters": {"text": {"type": "text"}, "tags": {"type": "strings"}},
        "call": {
            "tool": "add",
            "arguments": {"note": "{id}", "text": "{text}", "more": {"tags": "{tags}", "kind": "plain"}},
            "definition": PIN,
        }
        | call,
    }


def connection(*actions: dict[str, Any], **changes: Any) -> Connection:
    content = {
        "id": "notes",
        "title": "Notes",
        "provider": "p",
        "client_id": "cab",
        "tenants": ["acme"],
        "resource": "https://notes.test",
        "mcp": {"endpoint": "https://notes.test/mcp", "protocol": "2026-07-28"},
        "actions": actions,
    }
    return Connection.model_validate_json(json.dumps(content | changes))


def sent(parameters: dict[str, Any], identifier: str = "note/n1") -> Any:
    to = connection(action())
    (one,) = to.actions
    return render(one, to, Intent(one, "notes", to.resource, identifier, parameters, task_id=None, reason=None))


def test_whole_values_keep_their_kind_and_absent_ones_leave_no_argument() -> None:
    message = json.loads(sent({"tags": ("a", "b")}).body)
    arguments = {"note": "n1", "more": {"tags": ["a", "b"], "kind": "plain"}}
    assert message == {"method": "tools/call", "params": {"name": "add", "arguments": arguments}}


@given(st.dictionaries(st.just("text"), st.text()), st.dictionaries(st.just("text"), st.text()))
def test_intents_that_differ_differ_in_their_digest(one: dict[str, str], other: dict[str, str]) -> None:
    try:
        digests = sent(one).digest, sent(other).digest
    except UnicodeEncodeError:
        return
    assert (digests[0] == digests[1]) == (one == other)


def test_a_write_to_a_server_is_never_repeated_by_itself() -> None:
    assert not repeats_safely(Action.model_validate_json(json.dumps(action(idempotent=True))))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arguments": {"text": "{text}", "tags": "{tags}"}}, "does not use id"),
        ({"arguments": {"a": "{id}", "b": "{text}", "c": "{tags}", "d": "{other}"}}, "names other"),
        ({"arguments": {"a": "{id}", "b": "{tags}", "c": ["{text}"]}}, "must be required"),
        ({"definition": "sha-256:short"}, "definition"),
        ({"method": "POST"}, "method"),
        ({"tool": "two words"}, "tool"),
    ],
)
def test_a_call_that_would_not_send_what_is_declared_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Action.model_validate_json(json.dumps(action(**changes)))


def test_tools_need_a_server_and_servers_have_nothing_but_tools() -> None:
    with pytest.raises(ValidationError, match="needs a connection with mcp"):
        connection(action(), mcp=None)
    request = {
        "id": "n.a.b",
        "title": "T",
        "effect": "read",
        "identifier": "n/*",
        "call": {"method": "GET", "path": "/n"},
    }
    with pytest.raises(ValidationError, match="needs `tool`"):
        connection(request)


@pytest.mark.parametrize("endpoint", ["https://evil.test/mcp", "http://notes.test/mcp", "https://notes.test:8443/mcp"])
def test_the_users_token_goes_to_no_other_origin_than_the_resources(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="own origin"):
        connection(action(), mcp={"endpoint": endpoint, "protocol": "2026-07-28"})


def test_the_host_that_trust_zones_bound_is_the_servers_and_there_is_no_other_address() -> None:
    assert connection(action(), resource="https://notes.test/of/users").api_host == "notes.test"
    with pytest.raises(ValidationError, match="has no api_base"):
        connection(action(), api_base="https://elsewhere.test")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "find2"},
        {"title": "find"},
        {"description": "d "},
        {"inputSchema": {"type": "object", "additionalProperties": True}},
        {"outputSchema": {"type": "object"}},
        {"annotations": {"readOnlyHint": True}},
    ],
)
def test_every_change_of_what_was_reviewed_changes_the_pin(change: dict[str, Any]) -> None:
    assert definition_pin(TOOL | change) != definition_pin(TOOL)


def test_what_is_not_pinned_and_the_order_of_members_change_nothing() -> None:
    turned = dict(reversed(TOOL.items()))
    assert definition_pin(turned | {"icons": [], "_meta": {"x": 1}}) == definition_pin(TOOL)


def test_a_name_that_is_listed_twice_has_no_pin() -> None:
    assert pins_of([TOOL, {"name": "other"}, TOOL])["find"] is None


def test_a_definition_that_has_no_canonical_form_has_no_pin() -> None:
    assert definition_pin(TOOL | {"inputSchema": {"maximum": 2**60}}) is None

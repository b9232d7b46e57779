"""`cab config import-openapi` and `import-mcp` with whatever a document may say: each part becomes part of an entry, or is told.

The operations are made up with every construct of OpenAPI 3.0 and 3.1 that says how something is sent.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.world import ENVIRONMENT, World

from cab.adapters.configuration.loader import inspect_folder
from cab.adapters.configuration.yaml_tree import read_yaml
from cab.domain.calls.rendering import render
from cab.domain.configured.actions import Action, Parameter
from cab.domain.configured.calls import Call
from cab.domain.configured.connections import Connection
from cab.domain.errors import BrokerError
from cab.domain.intents import Intent
from cab_ops.catalog.documents import DocumentRefused, read_document
from cab_ops.catalog.entries import entries_text
from cab_ops.catalog.mcp import import_tools
from cab_ops.catalog.openapi import Imported, import_operations, listed_operations

NAMES = st.sampled_from(
    ["id", "title", "page[size]", "größe", "名前", "reason", "a-b", "a_b", "$filter", "2fa", "x" * 70, "in", "on", ""]
)
WORDS = st.sampled_from(["open", "won", "", "{id}", "ß", "x" * 600, "two\nlines", "\u202e", "no"])
LEAVES = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "number", "boolean", "object", "null"])}),
    st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.sampled_from([1, 1999, 2001, 10**6])}),
    st.fixed_dictionaries({"type": st.just("string"), "format": st.sampled_from(["binary", "date", "password"])}),
    st.fixed_dictionaries({"type": st.just("string"), "enum": st.lists(WORDS, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"enum": st.lists(st.one_of(st.integers(), st.none(), WORDS), min_size=1, max_size=2)}),
    st.fixed_dictionaries({"const": st.one_of(WORDS, st.booleans(), st.integers())}),
    st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.sampled_from([0, 1.0, 0.5, 10**30])}),
    st.fixed_dictionaries({"type": st.just("integer"), "exclusiveMaximum": st.sampled_from([True, 7, 7.0])}),
    st.fixed_dictionaries({"type": st.just("string"), "nullable": st.just(True)}),
    st.just({"type": ["string", "null"]}),
    st.just({"type": ["string", "integer"]}),
    st.just({"$ref": "#/components/schemas/Text"}),
    st.just({"$ref": "#/components/schemas/Text", "readOnly": True}),
    st.just({"$ref": "#/components/schemas/Tree"}),
    st.just({"$ref": "#/components/schemas/Loop"}),
    st.just({"$ref": "https://elsewhere.test/schema.json"}),
    st.just({}),
)


def _around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.sampled_from([1, 10**6])}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"anyOf": st.tuples(inner, st.just({"type": "null"})).map(list)}),
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(NAMES, inner, max_size=3),
                "required": st.lists(NAMES, max_size=2),
                "additionalProperties": st.sampled_from([False, True, {"type": "string"}]),
            }
        ),
    )


SCHEMAS = st.recursive(LEAVES, _around, max_leaves=5)
OBJECTS = st.fixed_dictionaries(
    {
        "type": st.just("object"),
        "properties": st.dictionaries(NAMES, SCHEMAS, min_size=1, max_size=4),
        "required": st.lists(NAMES, max_size=2, unique=True),
    }
)
PARAMETERS = st.one_of(
    st.fixed_dictionaries(
        {
            "name": NAMES.filter(bool),
            "in": st.sampled_from(["query", "header", "cookie"]),
            "required": st.booleans(),
            "schema": SCHEMAS,
        },
        optional={
            "style": st.sampled_from(["form", "spaceDelimited", "deepObject"]),
            "explode": st.booleans(),
            "description": WORDS,
        },
    ),
    st.fixed_dictionaries(
        {
            "name": NAMES.filter(bool),
            "in": st.just("query"),
            "content": st.just({"application/json": {"schema": {"type": "string"}}}),
        }
    ),
    st.just({"$ref": "#/components/parameters/Shared"}),
)
SEGMENTS = st.sampled_from(["deals", "größe", "a b", "{id}", "{org}", "{org}.json", "", ".well-known", "a;b=c"])
PATH_STYLES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {}, {"style": "label"}, {"style": "matrix", "explode": True}]
)
BODIES = st.fixed_dictionaries(
    {
        "required": st.booleans(),
        "content": st.dictionaries(
            st.sampled_from(
                [
                    "application/json",
                    "application/json; charset=utf-8",
                    "application/x-www-form-urlencoded",
                    "multipart/form-data",
                    "application/xml",
                    "*/*",
                ]
            ),
            st.fixed_dictionaries(
                {"schema": OBJECTS},
                optional={
                    "encoding": st.dictionaries(
                        NAMES, st.sampled_from([{"explode": False}, {"style": "pipeDelimited"}])
                    )
                },
            ),
            min_size=1,
            max_size=2,
        ),
    }
)
METHODS = st.sampled_from(["get", "post", "put", "patch", "delete", "head"])


class Made(NamedTuple):
    version: str
    method: str
    path: str
    item: dict[str, Any]
    operation: dict[str, Any]


@st.composite
def operations(draw: st.DrawFn) -> Made:
    path = "/" + "/".join(draw(st.lists(SEGMENTS, min_size=1, max_size=4)))
    declared = [
        {"name": name, "in": "path", "required": True, "schema": draw(SCHEMAS), **draw(PATH_STYLES)}
        for name in dict.fromkeys(re.findall(r"\{(\w+)\}", path))
    ]
    operation: dict[str, Any] = {"parameters": draw(st.lists(PARAMETERS, max_size=4)), "responses": {}}
    if draw(st.booleans()):
        operation["requestBody"] = draw(BODIES)
    if draw(st.booleans()):
        operation["responses"] = {200: {"description": "", "content": {"application/json": {"schema": draw(SCHEMAS)}}}}
    if draw(st.booleans()):
        operation["servers"] = [{"url": "https://{region}.test", "variables": {"region": {"default": "eu"}}}]
    version = draw(st.sampled_from(["3.0.3", "3.1.0"]))
    return Made(version, draw(METHODS), path, {"parameters": declared}, operation)


def document_of(made: list[Made], version: str = "3.1.0") -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for number, one in enumerate(made):
        operation = {**one.operation, "operationId": f"op{number}"}
        paths[f"/n{number}{one.path}"] = {**one.item, one.method: operation}
    return {
        "openapi": version,
        "info": {"title": "Made up", "version": "1"},
        "paths": paths,
        "components": {
            "parameters": {"Shared": {"name": "shared", "in": "query", "schema": {"type": "string"}}},
            "schemas": {
                "Text": {"type": "string"},
                "Tree": {"type": "object", "properties": {"below": {"$ref": "#/components/schemas/Tree"}}},
                "Loop": {"allOf": [{"$ref": "#/components/schemas/Loop"}]},
            },
        },
    }


def imported(made: list[Made]) -> Imported:
    document = read_document(json.dumps(document_of(made, made[0].version)).encode())
    return import_operations(document, connection="crm", operations=tuple(f"op{n}" for n in range(len(made))))


def as_pasted(found: Imported) -> list[Action]:
    text = entries_text(((one.action, one.notes) for one in found.entries), about=[])
    tree, problems = read_yaml("connections.yaml", f"actions:\n{text}".encode())
    assert tree is not None, problems
    assert not problems
    return [Action.model_validate(entry) for entry in tree.value["actions"] or []]


def parts_of(made: Made) -> list[str]:
    """What the operation says can be sent, by the words in which it would be told that something was left out."""
    told = (
        ["query parameter shared"] if {"$ref": "#/components/parameters/Shared"} in made.operation["parameters"] else []
    )
    declared = {(one["in"], one["name"]): one for one in made.operation["parameters"] if "name" in one}
    told += [
        f"cookie {name}" if place == "cookie" else f"{place} parameter {name}"
        for place, name in declared
        if place != "header"
    ]
    return told


@settings(max_examples=60, deadline=None)
@given(operations())
def test_an_operation_is_an_entry_that_cab_reads_or_is_named_with_the_reason(made: Made) -> None:
    found = imported([made])
    assert len(found.entries) + len(found.refused) == 1
    assert all(reason.strip() for reason in found.refused.values())
    actions = as_pasted(found)
    assert len(actions) == len(found.entries)
    for action, entry in zip(actions, found.entries, strict=True):
        assert isinstance(action.call, Call)
        told = "\n".join(entry.notes)
        for part in parts_of(made):
            place, _, name = part.rpartition(" ")
            is_sent = place == "query parameter" and name in action.call.query
            assert is_sent or f"left out: {part[:40]}" in told, (part, entry)


@settings(max_examples=60, deadline=None)
@given(operations())
def test_members_of_a_body_are_sent_or_told(made: Made) -> None:
    found = imported([made])
    body = made.operation.get("requestBody")
    for entry in found.entries:
        told, sent = "\n".join(entry.notes), entry.action["call"].get("body") or {}
        if body is None or "left out: the body" in told:
            assert not sent
            continue
        medias = {kind.partition(";")[0]: one for kind, one in body["content"].items()}
        media = next(
            medias[kind] for kind in ("application/json", "application/x-www-form-urlencoded") if kind in medias
        )
        for name, schema in media["schema"]["properties"].items():
            read_only = made.version == "3.1.0" and "readOnly" in json.dumps(schema)
            assert name in sent or f"left out: member {name}"[:40].rstrip() in told or read_only, (name, entry)


@settings(max_examples=40, deadline=None)
@given(operations(), st.data())
def test_an_entry_can_be_called_at_the_address_that_the_document_gives(made: Made, data: st.DataObject) -> None:
    connection = Connection.model_construct(resource="https://api.test", api_base="https://api.test/v1", mcp=None)  # type: ignore[call-arg]
    for action in as_pasted(imported([made])):
        values = {name: _value(parameter) for name, parameter in action.parameters.items()}
        if not data.draw(st.booleans()):
            values = {name: value for name, value in values.items() if action.parameters[name].required}
        identifier = action.identifier.replace("{id}", "D-1")
        intent = Intent(action, "crm", connection.resource, identifier, values, None, None)
        try:
            call = render(action, connection, intent)
        except BrokerError:  # an allowed value that would be an empty segment
            assert any(value in ("", ".", "..") for value in values.values())
            continue
        path = call.url.removeprefix("https://api.test/v1").partition("?")[0]
        assert path.isascii()
        assert path.isprintable()
        assert path.count("/") == f"/n0{made.path}".count("/")
        assert path.endswith("/") == made.path.endswith("/")


def _value(parameter: Parameter) -> Any:
    text = parameter.values[0] if parameter.values else "x"
    number = max(parameter.minimum, min(parameter.maximum, 1))
    found: dict[str, Any] = {"boolean": True, "integer": number, "strings": (text,)}
    return found.get(parameter.type, text)


def test_a_folder_with_everything_that_was_imported_is_valid(tmp_path: Path) -> None:
    """By the same check as `cab config validate`, with all of a made up document at once."""
    made: list[Made] = []

    @settings(max_examples=120, deadline=None, database=None, derandomize=True)
    @given(operations())
    def collect(one: Made) -> None:
        made.append(one)

    collect()
    found = imported(made)
    assert len(found.entries) > 20
    assert len(found.entries) + len(found.refused) == len(made)
    text = entries_text(((one.action, one.notes) for one in found.entries), about=[])
    head = (
        "  - id: made-up\n    title: Made up\n    provider: trusts-cab\n    grant_kind: broker_jwt\n"
        "    resource: https://made.test\n    tenants: [acme]\n    actions:\n"
    )
    folder = World(scratch=tmp_path).write_policies(
        None, connections=lambda given: given.rstrip("\n") + "\n" + head + text.replace("crm.op", "made.op")
    )
    environment = ENVIRONMENT
    inspection = inspect_folder(folder, environment, unset="warning")
    assert [problem for problem in inspection.problems if problem.severity == "error"] == []


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), WORDS, st.just([]), st.just([{}]), st.just({}), st.just({"$ref": 1})
)


@settings(max_examples=80, deadline=None)
@given(operations(), st.data())
def test_a_document_that_is_broken_anywhere_is_refused_in_words(made: Made, data: st.DataObject) -> None:
    document = json.loads(json.dumps(document_of([made], made.version)))  # a copy: what is drawn may be drawn again
    places = list(_places(document))
    for holder, key in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        holder[key] = data.draw(ODD)
    try:
        read = read_document(json.dumps(document).encode())
        listed_operations(read)
        found = import_operations(read, connection="crm", operations=("op0",))
    except DocumentRefused:
        return  # in words: anything else would be a traceback
    as_pasted(found)


def _places(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [place for key, one in value.items() for place in ((value, key), *_places(one))]
    if isinstance(value, list):
        return [place for key, one in enumerate(value) for place in ((value, key), *_places(one))]
    return []


# --- tools of MCP servers ---

TOOLS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["search", "addNote", "ü", "a" * 60, "a=b"]),
        "inputSchema": st.one_of(OBJECTS, SCHEMAS, ODD),
    },
    optional={"annotations": st.one_of(ODD, st.just({"readOnlyHint": True})), "description": ODD, "title": ODD},
)


@settings(max_examples=80, deadline=None)
@given(TOOLS)
def test_a_tool_is_an_entry_that_cab_reads_or_is_named_with_the_reason(tool: dict[str, Any]) -> None:
    entries, refused = import_tools([tool], connection="notes", chosen=(tool["name"],))
    assert len(entries) + len(refused) == 1
    for entry in entries:
        Action.model_validate_json(json.dumps(entry.action))
        told = "\n".join(entry.notes)
        schema = tool["inputSchema"]
        for name in (schema.get("properties") or {}) if isinstance(schema, dict) else ():
            assert name in entry.action["call"]["arguments"] or f"left out: {name}"[:40].rstrip() in told

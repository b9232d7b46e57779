"""`cab config import-openapi`: what it writes is read by CAB as it stands, what it cannot say is told, and nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from cab.adapters.configuration.yaml_tree import read_yaml
from cab.domain.calls.rendering import render
from cab.domain.calls.tools import input_schema
from cab.domain.configured.actions import Action
from cab.domain.configured.calls import Call
from cab.domain.configured.connections import Connection
from cab.domain.intents import Intent
from cab_ops.catalog import documents
from cab_ops.cli.config import config_group

LEAF = {"type": "string"}
DEALS: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Deals\n- id: evil", "version": "1"},
    "servers": [{"url": "https://api.deals.test/v3"}],
    "paths": {
        "/orgs/{org}/deals/{dealId}": {
            "parameters": [
                {"name": "org", "in": "path", "required": True, "schema": LEAF},
                {"name": "dealId", "in": "path", "required": True, "schema": LEAF},
            ],
            "patch": {
                "operationId": "updateDeal",
                "summary": "Change a deal",
                "description": "Changes it.\u202e\n# evil: [x]",
                "parameters": [
                    {"name": "Idempotency-Key", "in": "header", "schema": LEAF},
                    {"name": "X-Trace", "in": "header", "schema": LEAF},
                    {"name": "X-Version", "in": "header", "required": True, "schema": {**LEAF, "enum": ["2"]}},
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Deal"}}},
                },
                "responses": {"200": {"description": "ok"}},
                "security": [{"oauth": ["deals.write"]}],
            },
            "delete": {"operationId": "deals/delete-one", "responses": {}, "deprecated": True},
        },
        "/deals": {
            "get": {
                "parameters": [
                    {"name": "page[size]", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
                    {"name": "after", "in": "query", "schema": {"type": ["string", "null"], "maxLength": 40}},
                    {"name": "tags", "in": "query", "schema": {"type": "array", "items": LEAF}},
                    {"name": "ids", "in": "query", "explode": False, "schema": {"type": "array", "items": LEAF}},
                    {"name": "weight", "in": "query", "schema": {"type": "number"}},
                    {"name": "kind", "in": "query", "schema": {"oneOf": [LEAF, {"type": "integer"}]}},
                    {"name": "session", "in": "cookie", "schema": LEAF},
                ],
                "responses": {
                    "200": {
                        "content": {
                            "application/json": {
                                "schema": {
                                    "properties": {
                                        "deals": {"type": "array", "items": {"type": "object"}},
                                        "next": LEAF,
                                    }
                                }
                            }
                        }
                    }
                },
            }
        },
    },
    "components": {
        "securitySchemes": {"oauth": {"type": "oauth2"}},
        "schemas": {
            "Deal": {
                "allOf": [
                    {
                        "required": ["fields", "kind"],
                        "properties": {"id": {**LEAF, "readOnly": True}, "kind": {**LEAF, "enum": ["deal"]}},
                    },
                    {
                        "properties": {
                            "fields": {
                                "type": "object",
                                "required": ["amount"],
                                "properties": {"amount": {"type": "integer"}, "note": {**LEAF, "maxLength": 9000}},
                            },
                            "contacts": {"type": "array", "items": {"type": "object"}},
                        }
                    },
                ]
            }
        },
    },
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "deals.json"
    written.write_text(json.dumps(DEALS))
    return written


def imported(file: Path, *operations: str, options: tuple[str, ...] = ()) -> Result:
    chosen = [word for operation in operations for word in ("--operation", operation)]
    return CliRunner().invoke(config_group, ["import-openapi", str(file), "--connection", "crm", *chosen, *options])


def actions_of(result: Result) -> list[Action]:
    tree, problems = read_yaml("connections.yaml", f"actions:\n{result.stdout}".encode())
    assert tree is not None, problems
    assert not problems
    return [Action.model_validate(entry) for entry in tree.value["actions"]]


def with_operation(tmp_path: Path, operation: dict[str, Any], path: str = "/things", method: str = "post") -> Path:
    written = tmp_path / "one.json"
    document = {**DEALS, "paths": {path: {method: {"operationId": "one", "responses": {}, **operation}}}}
    written.write_text(json.dumps(document))
    return written


def with_body(tmp_path: Path, schema: Any, media: str = "application/json", *, required: bool = True) -> Path:
    return with_operation(tmp_path, {"requestBody": {"required": required, "content": {media: {"schema": schema}}}})


def test_what_is_written_is_an_action_that_makes_the_call_of_the_document(file: Path) -> None:
    result = imported(file, "updateDeal")
    assert result.exit_code == 0
    [action] = actions_of(result)
    connection = Connection.model_construct(resource="https://api.deals.test/v3", api_base=None)  # type: ignore[call-arg]
    values = {"org": "acme co", "fields_amount": 5, "fields_note": "n"}
    intent = Intent(action, "crm", connection.resource, "deals/D-1", values, None, None)  # type: ignore[arg-type]
    call = render(action, connection, intent)
    assert (call.method, call.url) == ("PATCH", "https://api.deals.test/v3/orgs/acme%20co/deals/D-1")
    assert json.loads(call.body or b"") == {"kind": "deal", "fields": {"amount": 5, "note": "n"}}
    assert dict(call.headers) == {"X-Version": "2"}
    assert isinstance(action.call, Call)
    assert action.call.idempotency_key == "Idempotency-Key"
    assert (action.id, action.effect, action.scopes) == ("crm.update_deal", "write", ("deals.write",))
    assert input_schema(action)["required"] == ["id", "org", "fields_amount"]
    assert action.parameters["fields_note"].type == "text"


def test_what_was_left_out_is_told_above_the_entry(file: Path) -> None:
    told = imported(file, "GET /deals=crm.deal.list").stdout
    for part in ("query parameter weight", "query parameter kind", "query parameter ids", "cookie session"):
        assert f"# left out: {part} " in told
    [action] = actions_of(imported(file, "GET /deals=crm.deal.list"))
    assert set(action.parameters) == {"page_size", "after", "tags"}
    assert isinstance(action.call, Call)
    assert action.call.query == {"page[size]": "{page_size}", "after": "{after}", "tags": "{tags}"}
    assert action.call.result.items == "/deals"
    assert "no OAuth scopes" in told


def test_a_list_within_one_thing_is_not_taken_for_a_page(file: Path) -> None:
    document = json.loads(file.read_text())
    page = document["paths"]["/deals"]["get"]["responses"]
    document["paths"]["/orgs/{org}/deals/{dealId}"]["get"] = {"operationId": "getDeal", "responses": page}
    file.write_text(json.dumps(document))
    [action] = actions_of(imported(file, "getDeal"))
    assert isinstance(action.call, Call)
    assert action.call.result.items is None


def test_nothing_of_the_vendor_leaves_its_line(file: Path) -> None:
    result = imported(file, "updateDeal")
    [action] = actions_of(result)
    assert action.description == "Changes it. # evil: [x]"
    assert [line for line in result.stdout.splitlines() if "evil" in line and not line.lstrip().startswith("#")] == [
        "        description: 'Changes it. # evil: [x]'"
    ]


def test_several_operations_come_in_the_order_asked_for_and_one_that_is_not_there_is_told(file: Path) -> None:
    result = imported(file, "deals/delete-one", "updateDeal", "noSuch")
    assert [action.id for action in actions_of(result)] == ["crm.deals_delete_one", "crm.update_deal"]
    assert actions_of(result)[0].effect == "destructive"
    assert "calls this operation deprecated" in result.stdout
    assert (result.exit_code, result.stderr) == (1, "noSuch: not written: the document has no such operation\n")


def test_without_an_operation_they_are_listed(file: Path) -> None:
    listed = CliRunner().invoke(config_group, ["import-openapi", str(file)]).stdout.splitlines()
    assert len(listed) == 3
    assert listed[0].split() == ["updateDeal", "PATCH", "/orgs/{org}/deals/{dealId}", "Change", "a", "deal"]


def test_programs_get_one_json_object(file: Path) -> None:
    answer = json.loads(imported(file, "updateDeal", options=("--json",)).stdout)
    assert answer["servers"] == ["https://api.deals.test/v3"]
    assert answer["entries"][0]["action"]["id"] == "crm.update_deal"


def test_yaml_is_read_as_json_would_be(file: Path) -> None:
    document = {**DEALS, "info": {"title": "Deals", "version": "2026-01-01"}}
    file.write_text(yaml.safe_dump(document, sort_keys=False).replace("'2026-01-01'", "2026-01-01"))
    result = imported(file, "updateDeal")
    assert result.exit_code == 0
    assert "Deals 2026-01-01" in result.stdout


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array", "items": LEAF}, "is not an object with named members"),
        ({"type": "object", "additionalProperties": True}, "is not an object with named members"),
        ({"required": ["a"], "properties": {"a": {"type": "number"}}}, "member a is required and is a number"),
        ({"required": ["a"], "properties": {"a": {"oneOf": [LEAF, {"type": "integer"}]}}}, "one of several kinds"),
        (
            {"required": ["a"], "properties": {"a": {"type": "array", "items": {"type": "integer"}}}},
            "something else than",
        ),
        ({"required": ["a"], "properties": {"a": {}}}, "says no type"),
        ({"required": ["a"], "properties": {"a": {**LEAF, "format": "binary"}}}, "is binary"),
        ({"required": ["a"], "properties": {"a": {**LEAF, "enum": ["{b}"]}, "b": LEAF}}, "take for a parameter"),
        ({"properties": {"a-b": LEAF, "a_b": LEAF}, "required": ["a-b", "a_b"]}, "name that another one has"),
    ],
)
def test_what_must_be_sent_and_cannot_be_said_refuses_the_operation(tmp_path: Path, schema: Any, why: str) -> None:
    result = imported(with_body(tmp_path, schema), "one")
    assert (result.exit_code, result.stdout) == (1, "")
    assert why in result.stderr


def test_a_body_that_is_neither_json_nor_a_form_is_only_left_out_where_it_may_be(tmp_path: Path) -> None:
    assert imported(with_body(tmp_path, {}, "multipart/form-data"), "one").exit_code == 1
    optional = imported(with_body(tmp_path, {}, "multipart/form-data", required=False), "one")
    assert "left out: the body is multipart/form-data" in optional.stdout
    assert actions_of(optional)[0].call is not None


def test_a_form_stays_a_form(tmp_path: Path) -> None:
    schema = {"properties": {"a": LEAF}}
    [action] = actions_of(imported(with_body(tmp_path, schema, "application/x-www-form-urlencoded"), "one"))
    assert isinstance(action.call, Call)
    assert action.call.encoding == "form"


def test_a_path_in_which_a_parameter_is_part_of_a_segment_is_refused(tmp_path: Path) -> None:
    parameter = {"name": "a", "in": "path", "required": True, "schema": LEAF}
    result = imported(with_operation(tmp_path, {"parameters": [parameter]}, "/things/{a}:move"), "one")
    assert "must be a whole segment" in result.stderr


def test_a_path_that_leaves_the_api_is_refused(tmp_path: Path) -> None:
    assert "must not hold . or .. segments" in imported(with_operation(tmp_path, {}, "/a/../../admin"), "one").stderr


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "Cookie", "Host", "Proxy-Authorization"])
def test_a_header_that_catalogs_may_not_set_is_refused(tmp_path: Path, name: str) -> None:
    header = {"name": name, "in": "header", "required": True, "schema": {**LEAF, "enum": ["x"]}}
    result = imported(with_operation(tmp_path, {"parameters": [header]}), "one")
    assert (result.exit_code, "cannot be set by a catalog" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("https://evil.test/schema.json", "outside of the document: nothing is fetched"),
        ("file:///etc/passwd", "outside of the document"),
        ("other.json#/a", "outside of the document"),
        ("#/components/schemas/Nothing", "which is not there"),
        ("#/components/schemas/Circle", "in circles"),
        (7, "outside of the document"),
    ],
)
def test_references_lead_into_the_document_only(tmp_path: Path, reference: Any, why: str) -> None:
    file = with_body(tmp_path, {"$ref": reference})
    document = json.loads(file.read_text())
    document["components"] = {"schemas": {"Circle": {"$ref": "#/components/schemas/Circle"}}}
    file.write_text(json.dumps(document))
    assert why in imported(file, "one").stderr


def test_a_small_document_that_unfolds_to_millions_of_schemas_is_refused(tmp_path: Path) -> None:
    file = with_body(tmp_path, {"$ref": "#/components/schemas/L0"})
    document = json.loads(file.read_text())
    levels = {f"L{n}": {"allOf": [{"$ref": f"#/components/schemas/L{n + 1}"}] * 10} for n in range(10)}
    document["components"] = {"schemas": {**levels, "L10": {"properties": {"a": LEAF}}}}
    file.write_text(json.dumps(document))
    assert "too much of the document hangs together" in imported(file, "one").stderr


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"swagger": "2.0"}', "convert it to OpenAPI 3"),
        ('{"openapi": "4.0.0"}', "is not 3.0 or 3.1"),
        ('{"openapi": ', "not valid JSON"),
        ("- 1", "not an object"),
        ("a: [", "neither valid JSON nor valid YAML"),
        ("!!python/object/apply:os.system ['true']", "neither valid JSON nor valid YAML"),
    ],
)
def test_what_is_no_openapi_document_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "odd"
    file.write_text(text)
    result = imported(file, "one")
    assert (result.exit_code, why in result.stderr) == (1, True)


def test_a_document_over_the_cap_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 1024)
    assert "larger than" in imported(file, "updateDeal").stderr


def test_an_action_whose_name_clients_would_refuse_is_asked_for_another(file: Path) -> None:
    result = imported(file, "updateDeal=crm." + "a" * 50)
    assert "name one with =ACTION" in result.stderr

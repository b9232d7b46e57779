"""docs/openapi.json is what the models and the error table say today, and says it in valid OpenAPI 3.1."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from jsonschema import Draft202012Validator

from cab.domain.errors import Reason
from cab.protocol import metadata
from cab.protocol.oauth_errors import TABLE
from cab.transport import openapi
from cab.transport.calls.deciding import CREDENTIALS, _Report
from cab.use_cases.exchange.calls.outcomes import ReportedOutcome
from cab_ops.cli.openapi import EXAMPLE_ORIGIN, document_text

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
DOCUMENT = openapi.document(EXAMPLE_ORIGIN)


def values_of(value: Any, member: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if member in value:
            yield value[member]
        for inner in value.values():
            yield from values_of(inner, member)
    elif isinstance(value, list):
        for inner in value:
            yield from values_of(inner, member)


def test_the_committed_document_is_current() -> None:
    assert COMMITTED.read_text("utf-8") == document_text(EXAMPLE_ORIGIN), "run: cab openapi > docs/openapi.json"


def test_every_schema_is_valid_and_every_reference_leads_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in values_of(DOCUMENT, "$ref"):
        found: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_patterns_are_in_the_dialect_of_json_schema() -> None:
    patterns = list(values_of(DOCUMENT, "pattern"))
    assert patterns
    assert not any(r"\Z" in pattern for pattern in patterns)


def test_every_reason_stands_under_its_error_and_status_once() -> None:
    documented = [
        (reason, pair["properties"]["error"]["const"], int(name.removeprefix("Error")))
        for name, response in DOCUMENT["components"]["responses"].items()
        for pair in response["content"]["application/json"]["schema"]["allOf"][1]["anyOf"]
        for reason in pair["properties"]["reason_code"]["enum"]
    ]
    expected = [(reason.value, *TABLE[reason]) for reason in Reason if reason not in openapi.PAGE_REASONS]
    assert sorted(documented) == sorted(expected)


def test_every_path_at_which_the_origin_answers_programs_is_described() -> None:
    """The pages for people are no API, `/ssf/events` is for identity providers, and MCP describes itself."""
    module = (Path(__file__).parents[2] / "terraform" / "modules" / "origin" / "main.tf").read_text("utf-8")
    routed = {
        path
        for function in ("mint_assertion", "exchange_token", "publish_metadata", "call_tool")
        for line in re.findall(rf"^ +{function} += (?:concat\()?\[(.*?)\]", module, re.MULTILINE | re.DOTALL)
        for path in re.findall(r'"(/[^"*]*)"', line)
    }
    assert {"/edge/token", "/oauth2/token", "/oauth2/outcomes", "/tools/call"} <= routed
    assert sorted(routed - {"/mcp"} - DOCUMENT["paths"].keys()) == []
    assert metadata.METADATA_PATHS | set(metadata.JWKS_PATHS.values()) <= DOCUMENT["paths"].keys()


def test_a_report_of_an_outcome_is_described_as_it_is_read() -> None:
    described = DOCUMENT["components"]["schemas"]["OutcomeReport"]["properties"]
    assert described.keys() == _Report.model_fields.keys() | CREDENTIALS
    assert described["outcome"]["enum"] == list(get_args(ReportedOutcome))


def test_the_document_is_one_json_value_that_survives_a_round_trip() -> None:
    assert json.loads(document_text(EXAMPLE_ORIGIN)) == DOCUMENT

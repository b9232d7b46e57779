"""docs/openapi.json is what the models and the error table say today, and says it in valid OpenAPI 3.1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from cab.domain.errors import Reason
from cab.protocol import metadata
from cab.protocol.oauth_errors import TABLE
from cab.transport import openapi
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


def test_every_advertised_endpoint_is_described() -> None:
    assert metadata.METADATA_PATHS | set(metadata.JWKS_PATHS.values()) <= DOCUMENT["paths"].keys()
    assert {"/edge/token", "/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"} <= DOCUMENT["paths"].keys()
    assert metadata.DETAILS_METADATA_PATH in DOCUMENT["paths"]


def test_the_document_is_one_json_value_that_survives_a_round_trip() -> None:
    assert json.loads(document_text(EXAMPLE_ORIGIN)) == DOCUMENT

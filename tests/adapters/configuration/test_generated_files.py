"""docs/schemas and the tables of docs/configuration.md are what the models say today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from cab.adapters.configuration.files import MODELS
from cab_ops.configuration.reference import with_reference
from cab_ops.configuration.schemas import json_schemas, schema_text

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_schemas_are_current() -> None:
    committed = {path.name: path.read_text("utf-8") for path in (ROOT / "docs" / "schemas").glob("*.json")}
    current = {name: schema_text(schema) for name, schema in json_schemas().items()}
    assert committed == current, "run: cab config schemas docs/schemas"


def test_the_committed_reference_is_current() -> None:
    document = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert with_reference(document) == document, "run: cab config reference docs/configuration.md"


@pytest.mark.parametrize("file", MODELS)
def test_the_example_names_its_schema_and_fits_it(file: str) -> None:
    path = ROOT / "examples" / "acme" / file
    text = path.read_text("utf-8")
    first_line = text.partition("\n")[0]
    assert first_line.startswith("# yaml-language-server: $schema=")
    schema = json.loads((path.parent / first_line.partition("=")[2]).resolve().read_text("utf-8"))
    assert list(Draft202012Validator(schema).iter_errors(yaml.safe_load(text))) == []


def test_schemas_use_only_patterns_that_editors_know() -> None:
    assert r"\\Z" not in "".join(schema_text(schema) for schema in json_schemas().values())

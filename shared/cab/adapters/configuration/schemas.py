"""JSON Schemas of the four YAML files, generated from the models, so that editors complete and check while people type."""

from __future__ import annotations

import json
from typing import Any

from cab.adapters.configuration.files import MODELS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schemas() -> dict[str, dict[str, Any]]:
    """Schema by file name (`broker.schema.json`, ...). Descriptions and defaults are the models' own."""
    found: dict[str, dict[str, Any]] = {}
    for file, model in MODELS.items():
        schema = _for_editors(model.model_json_schema(by_alias=True))
        found[file.replace(".yaml", ".schema.json")] = {"$schema": DIALECT, **schema, "title": file}
    return found


def schema_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _for_editors(value: Any) -> Any:
    """Patterns in the dialect of JSON Schema: `$` there never allows a newline behind the match, and \\Z is unknown."""
    if isinstance(value, dict):
        return {name: _member(name, member) for name, member in value.items()}
    return [_for_editors(item) for item in value] if isinstance(value, list) else value


def _member(name: str, member: Any) -> Any:
    if name == "pattern" and isinstance(member, str):
        return member.replace(r"\Z", "$")
    if name == "patternProperties" and isinstance(member, dict):
        return {pattern.replace(r"\Z", "$"): _for_editors(schema) for pattern, schema in member.items()}
    return _for_editors(member)

"""JSON Schemas of our models (draft 2020-12), in the dialect that every other tool reads."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"
LOCAL_REFERENCES = "#/$defs/{model}"


def schema_of(model: type[BaseModel], *, references: str = LOCAL_REFERENCES) -> dict[str, Any]:
    """The model's schema. `references` says where the schemas of its parts are, which are under `$defs` all the same."""
    schema: dict[str, Any] = portable(model.model_json_schema(by_alias=True, ref_template=references))
    return schema


def portable(value: Any) -> Any:
    """Patterns in the dialect of JSON Schema: `$` there never allows a newline behind the match, and \\Z is unknown."""
    if isinstance(value, dict):
        return {name: _member(name, member) for name, member in value.items()}
    return [portable(item) for item in value] if isinstance(value, list) else value


def _member(name: str, member: Any) -> Any:
    if name == "pattern" and isinstance(member, str):
        return member.replace(r"\Z", "$")
    if name == "patternProperties" and isinstance(member, dict):
        return {pattern.replace(r"\Z", "$"): portable(schema) for pattern, schema in member.items()}
    return portable(member)

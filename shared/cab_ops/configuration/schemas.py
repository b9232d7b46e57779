"""JSON Schemas of the four YAML files, generated from the models, so that editors complete and check while people type."""

from __future__ import annotations

import json
from typing import Any

from cab.adapters.configuration.files import MODELS
from cab.encoding.json_schema import DIALECT, schema_of


def json_schemas() -> dict[str, dict[str, Any]]:
    """Schema by file name (`broker.schema.json`, ...). Descriptions and defaults are the models' own."""
    found: dict[str, dict[str, Any]] = {}
    for file, model in MODELS.items():
        found[file.replace(".yaml", ".schema.json")] = {"$schema": DIALECT, **schema_of(model), "title": file}
    return found


def schema_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"

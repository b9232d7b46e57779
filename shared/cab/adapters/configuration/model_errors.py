"""Pydantic's errors as problems with file, line and remedy. Input is never quoted: only key names and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError

from cab.adapters.configuration.problems import Problem, choose_from
from cab.adapters.configuration.yaml_tree import Place, YamlTree

M = TypeVar("M", bound=BaseModel)

_SENTENCES: Mapping[str, tuple[str, str]] = {
    "missing": ("is missing", "add it"),
    "string_type": ("must be text", "put it in quotes"),
    "int_type": ("must be a whole number", "write a number without quotes"),
    "bool_type": ("must be true or false", "write true or false, without quotes: yes, no, on and off are texts here"),
    "tuple_type": ("must be a list", "write `- item` lines, or [a, b]"),
    "dict_type": ("must be a mapping", "write `key: value` lines"),
    "model_type": ("must be a mapping", "write `key: value` lines"),
    "model_attributes_type": ("must be a mapping", "write `key: value` lines"),
}


def validate(model: type[M], tree: YamlTree, value: Any = None, *, at: Place = ()) -> tuple[M | None, list[Problem]]:
    """`value` (the whole tree unless given) as `model`, or None and every mistake. `at` is where the value is in the tree."""
    content = tree.value if value is None else value
    try:
        # As JSON and strictly: a list is a tuple and a word an enum member there, but no text is a number or a yes.
        return model.model_validate_json(orjson.dumps(content), strict=True), []
    except ValidationError as exc:
        details = exc.errors(include_url=False, include_input=False)
        return None, list(dict.fromkeys(_problems(model, tree, content, details, at)))


def _problems(model: type[BaseModel], tree: YamlTree, content: Any, details: Any, at: Place) -> Iterator[Problem]:
    locations = [detail["loc"] for detail in details]
    found = [_place(detail["loc"], content, absent=detail["type"] == "missing") for detail in details]
    said_of = [place for place, _ in found]
    for detail, (refused, value) in zip(details, found, strict=True):
        if len(details) > 1 and _is_of_another_member(detail["type"], refused, value, said_of):
            continue
        if detail["type"] == "too_short" and any(_is_below(other, detail["loc"]) for other in locations):
            continue  # the list is only empty because its items were refused, which is said on its own
        place = refused
        if detail["type"] == "value_error":  # the domain's sentences begin with the key at fault, where there is one
            key = str(detail["ctx"]["error"]).split(" ", 1)[0]
            place = (*refused, key) if isinstance(value, dict) and key in value else refused
        name = ".".join(str(part) for part in place) or "the file"
        message, remedy = _sentence(detail, model)
        yield Problem(tree.file, tree.line((*at, *place)), f"{name} {message}", remedy)


def _is_of_another_member(kind: str, place: Place, value: Any, said_of: list[Place]) -> bool:
    """Of a union, the member that the author did not mean: a mapping where a text stands, a text where a mapping does."""
    if kind in ("model_type", "dict_type"):
        return isinstance(value, str) and said_of.count(place) > 1
    return kind == "string_type" and isinstance(value, dict) and any(_is_below(other, place) for other in said_of)


def _is_below(location: tuple[str | int, ...], upper: tuple[str | int, ...]) -> bool:
    return len(location) > len(upper) and location[: len(upper)] == upper


def _place(location: tuple[str | int, ...], content: Any, *, absent: bool) -> tuple[Place, Any]:
    """Pydantic's location without the names of union members, which are no keys of the file; and what is there.

    `absent` says that the last part names a key which should be there and is not.
    """
    place: list[str | int] = []
    value = content
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(value, dict) and (part in value or (last and absent)):
            place.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            place.append(part)
            value = value[part]
    return tuple(place), value


def _sentence(detail: Any, model: type[BaseModel]) -> tuple[str, str]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _SENTENCES:
        return _SENTENCES[kind]
    if kind == "extra_forbidden":
        return "is not a key that is known here", choose_from(
            str(detail["loc"][-1]), _known_keys(model, detail["loc"][:-1]), otherwise="remove it"
        )
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        allowed = context.get("expected") or context.get("expected_tags")
        return "has a value that is not allowed", f"allowed: {allowed}"
    if kind == "union_tag_not_found":
        return "does not say which kind it is", f"add {context.get('discriminator', 'the missing key')}"
    if kind == "string_pattern_mismatch":
        return "does not have the right form", f"it must match {context['pattern']}"
    if kind == "value_error":
        return "is not consistent", str(context["error"])
    bounds = re.sub(r"^(Input|String|Value|Tuple|Dictionary) should ", "", detail["msg"])
    return "is out of bounds", f"it should {bounds}"


def _known_keys(model: type[BaseModel], location: tuple[str | int, ...]) -> set[str]:
    """The keys of the model that an error location leads to, aliases included."""
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for candidate in candidates:
            for name, field in candidate.model_fields.items():
                if part in (name, field.alias):
                    following += _models_in(field.annotation)
        candidates = following or candidates
    return {field.alias or name for candidate in candidates for name, field in candidate.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]

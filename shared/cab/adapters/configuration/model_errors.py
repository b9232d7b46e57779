"""Pydantic's errors as problems with file, line and remedy. Input is never quoted: only key names and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from cab.adapters.configuration.problems import Problem, choose_from
from cab.adapters.configuration.yaml_tree import Place, YamlTree

M = TypeVar("M", bound=BaseModel)

_SENTENCES: Mapping[str, tuple[str, str]] = {
    "missing": ("is missing", "add it"),
    "string_type": ("must be text", "put it in quotes"),
    "int_type": ("must be a whole number", "write a number without quotes"),
    "int_parsing": ("must be a whole number", "write a number"),
    "bool_type": ("must be true or false", "write true or false"),
    "bool_parsing": ("must be true or false", "write true or false"),
    "tuple_type": ("must be a list", "write `- item` lines, or [a, b]"),
    "dict_type": ("must be a mapping", "write `key: value` lines"),
    "model_type": ("must be a mapping", "write `key: value` lines"),
    "model_attributes_type": ("must be a mapping", "write `key: value` lines"),
}


def validate(model: type[M], tree: YamlTree, value: Any = None, *, at: Place = ()) -> tuple[M | None, list[Problem]]:
    """`value` (the whole tree unless given) as `model`, or None and every mistake. `at` is where the value stands in the tree."""
    content = tree.value if value is None else value
    try:
        return model.model_validate(content), []
    except ValidationError as exc:
        details = exc.errors(include_url=False, include_input=False)
        return None, list(dict.fromkeys(_problems(model, tree, content, details, at)))


def _problems(model: type[BaseModel], tree: YamlTree, content: Any, details: Any, at: Place) -> Iterator[Problem]:
    wrong_branches = {detail["loc"][:-1] for detail in details if _is_other_branch(detail, content)}
    for detail in details:
        if any(detail["loc"][: len(branch)] == branch for branch in wrong_branches):
            continue
        place = _place(detail["loc"], content)
        name = ".".join(str(part) for part in place) or "the file"
        message, remedy = _sentence(detail, model)
        yield Problem(tree.file, tree.line((*at, *place)), f"{name} {message}", remedy)


def _is_other_branch(detail: Any, content: Any) -> bool:
    """Whether this error only says that a union member was not the one meant: its `method` is another, valid one."""
    if detail["type"] != "literal_error" or detail["loc"][-1] != "method":
        return False
    return len(_place(detail["loc"], content)) < len(detail["loc"]) and _holder(detail["loc"], content) != {}


def _holder(location: tuple[str | int, ...], content: Any) -> Any:
    value = content
    for part in _place(location, content)[:-1]:
        value = value[part]
    return value


def _place(location: tuple[str | int, ...], content: Any) -> Place:
    """Pydantic's location without the names of union members, which are no keys of the file."""
    place: list[str | int] = []
    value = content
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(value, dict) and (part in value or last):
            place.append(part)
            value = value.get(part)
        elif isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value):
            place.append(part)
            value = value[part]
    return tuple(place)


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
        return f"does not say which kind it is ({context.get('discriminator', '')} is missing)", "add it"
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
            if candidate.__name__ == part:
                following.append(candidate)
            for name, field in candidate.model_fields.items():
                if part in (name, field.alias):
                    following += _models_in(field.annotation)
        candidates = following or candidates
    return {field.alias or name for candidate in candidates for name, field in candidate.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]

"""OpenAPI documents of others, read with care: JSON or YAML, bounded, and with references into the same document only."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import orjson
import yaml

MAX_BYTES: Final = 32 * 1024 * 1024  # the largest public ones have 12 MiB
MAX_YAML_BYTES: Final = 8 * 1024 * 1024  # YAML is read a hundred times slower
MAX_DEPTH: Final = 200  # of a YAML file
MAX_MEMBERS: Final = 1_000_000  # of all objects of a YAML file, with those that it merges (`<<`)
MAX_REFERENCES: Final = 32  # in a row
MAX_LOOK_UPS: Final = 100_000  # a document can be small and unfold to millions of schemas
_VERSION = re.compile(r"3\.[01]\.[0-9]+")


class DocumentRefused(Exception):
    """The document, or one operation of it, cannot be used. The message is a sentence for people."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the wheel may have no libyaml
    """YAML as JSON sees it, which OpenAPI asks for (3.1.0 section 4.3): `no`, `on`, dates and times are texts, and so is every key."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    _merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                key.tag = _TEXT
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > MAX_MEMBERS:
            raise yaml.YAMLError("too much is merged")


_TEXT: Final = "tag:yaml.org,2002:str"
_MERGE: Final = "tag:yaml.org,2002:merge"
for _tag, _form, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"-?(0|[1-9][0-9]*)", "-0123456789"),
    ("float", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", "-0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_form})\Z"), list(_first))


class Document:
    """An OpenAPI document as plain values. Looking things up in it ends, however it is made."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self._left = MAX_LOOK_UPS

    @property
    def reads_beside_references(self) -> bool:
        """Whether what stands beside a schema's `$ref` counts too: in all but OpenAPI 3.0 (section 4.8.23)."""
        return not str(self.content.get("openapi", "")).startswith("3.0.")

    def resolved(self, value: Any) -> dict[str, Any]:
        """The object that `value` is or refers to, through any number of references within the document.

        Raises: DocumentRefused for a reference that leaves the document, leads nowhere or in circles, and for what is no object.
        """
        for _ in range(MAX_REFERENCES):
            self._left -= 1
            if self._left < 0:
                raise DocumentRefused("too much of the document hangs together")
            if not isinstance(value, dict):
                raise DocumentRefused("the document has something else where an object belongs")
            reference = value.get("$ref")
            if reference is None:
                return value
            if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
                raise DocumentRefused(f"it refers to {shown(reference)}, outside of the document: nothing is fetched")
            value = _at(self.content, reference)
        raise DocumentRefused("references of the document lead in circles")


def read_bounded(path: Path) -> bytes:
    """The file, of which no more is read than may be used. Raises: DocumentRefused."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DocumentRefused(f"the document is larger than {MAX_BYTES // 1024 // 1024} MiB")
    return data


def read_document(data: bytes) -> Document:
    """Raises: DocumentRefused when it is unreadable or not OpenAPI 3.0 or 3.1."""
    document = _parsed(data.removeprefix(codecs.BOM_UTF8))
    if not isinstance(document, dict):
        raise DocumentRefused("the document is not an object")
    if "swagger" in document:
        raise DocumentRefused("this is Swagger 2.0: convert it to OpenAPI 3 first")
    version = document.get("openapi")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise DocumentRefused("`openapi` is not 3.0 or 3.1")
    return Document(document)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if data.lstrip()[:1] == b"{":  # YAML would take it, and hide what is wrong
            raise DocumentRefused("the document is not valid JSON") from None
    if len(data) > MAX_YAML_BYTES:
        raise DocumentRefused(f"as YAML it may have {MAX_YAML_BYTES // 1024 // 1024} MiB: convert it to JSON")
    try:
        _check_depth(data)
        return yaml.load(data, Loader=_Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        raise DocumentRefused("the document is neither valid JSON nor valid YAML") from None


def _check_depth(data: bytes) -> None:
    """Before anything is built, since libyaml builds by recursion in C: a deep file would end the process."""
    depth = 0
    for event in yaml.parse(data, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError("nested too deeply")


def _at(document: Any, reference: str) -> Any:
    """RFC 6901 section 6: the pointer stands percent-encoded in a reference. Not all who write one do so."""
    found = document
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise DocumentRefused(f"it refers to {shown(reference)}, which is not there")
    return found


def as_list(value: object) -> list[Any]:
    """The list that it is; an empty one for what belongs to no valid document."""
    return value if isinstance(value, list) else []


def as_object(value: object) -> dict[str, Any]:
    """The object that it is; an empty one for what belongs to no valid document."""
    return value if isinstance(value, dict) else {}


def shown(value: object, *, limit: int = 120) -> str:
    """Words of others as one short printable line."""
    text = " ".join(str(value).split())
    text = "".join(char for char in text if char.isprintable())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"

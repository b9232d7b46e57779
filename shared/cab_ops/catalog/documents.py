"""OpenAPI documents of others, read with care: JSON or YAML, bounded, and with references into the same document only."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
import yaml

MAX_BYTES: Final = 32 * 1024 * 1024  # the largest public ones have 12 MiB
MAX_YAML_BYTES: Final = 8 * 1024 * 1024  # YAML is read a hundred times slower
MAX_REFERENCES: Final = 32  # in a row
MAX_LOOK_UPS: Final = 100_000  # a document can be small and unfold to millions of schemas
_VERSION = re.compile(r"3\.[01]\.[0-9]+")


class DocumentRefused(Exception):
    """The document, or one operation of it, cannot be used. The message is a sentence for people."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the wheel may have no libyaml
    """YAML as JSON sees it: dates stay texts."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Document:
    """An OpenAPI document as plain values. Looking things up in it ends, however it is made."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self._left = MAX_LOOK_UPS

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
            if not isinstance(reference, str) or not reference.startswith("#/"):
                raise DocumentRefused(f"it refers to {shown(reference)}, outside of the document: nothing is fetched")
            value = _at(self.content, reference)
        raise DocumentRefused("references of the document lead in circles")


def read_document(data: bytes) -> Document:
    """Raises: DocumentRefused when it is too large, unreadable or not OpenAPI 3.0 or 3.1."""
    if len(data) > MAX_BYTES:
        raise DocumentRefused(f"the document is larger than {MAX_BYTES // 1024 // 1024} MiB")
    document = _parsed(data)
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
        return yaml.load(data, Loader=_Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        raise DocumentRefused("the document is neither valid JSON nor valid YAML") from None


def _at(document: Any, reference: str) -> Any:
    found = document
    for part in reference.removeprefix("#/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise DocumentRefused(f"it refers to {shown(reference)}, which is not there")
    return found


def shown(value: object, *, limit: int = 120) -> str:
    """Words of others as one short printable line."""
    text = " ".join(str(value).split())
    text = "".join(char for char in text if char.isprintable())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"

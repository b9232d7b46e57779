"""YAML text as plain values plus the line of each.

A small, closed part of YAML: mappings with unique text keys, lists, and scalars read by the YAML 1.2 core rules (`no` is text).
Anchors, aliases, tags, several documents, floats, deep nesting and large files are refused: none has a use here, each has been an attack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

import yaml

from cab.adapters.configuration.problems import Problem
from cab.values import immutable

# Control, bidirectional and zero-width characters: with them a file can say something else than reviewers see.
INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")

MAX_BYTES = 512 * 1024
MAX_DEPTH = 20

Place = tuple[str | int, ...]  # keys and list positions from the root to a value

_Loader = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # libyaml where the wheel has it: ten times faster at cold start
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Mapping[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@immutable
class YamlTree:
    """A parsed file. `lines` maps every place that holds a value to its line, counted from 1; a key's place is its value's."""

    file: str
    value: Any
    lines: Mapping[Place, int] = field(default_factory=dict)

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest enclosing place that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


class _Refused(Exception):
    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.line, self.message, self.remedy = line, message, remedy


def read_yaml(file: str, data: bytes) -> tuple[YamlTree | None, list[Problem]]:
    """The tree, or None with the mistakes. A repeated key is reported and does not stop the reading."""
    try:
        if len(data) > MAX_BYTES:
            raise _Refused(1, f"the file is larger than {MAX_BYTES // 1024} KiB", "split or shorten it")
        text = data.decode("utf-8")
        reader = _Reader(file, yaml.parse(text, Loader=_Loader))
        return reader.document(), reader.problems
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        return None, [Problem(file, line, "the file is not UTF-8", "save it as UTF-8")]
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        message = f"not valid YAML: {exc.problem or exc.context or 'cannot be parsed'}"
        return None, [Problem(file, mark.line + 1 if mark else 1, message, "correct the indentation or quoting here")]
    except yaml.YAMLError:
        return None, [Problem(file, 1, "not valid YAML: it holds a forbidden character", "remove control characters")]
    except _Refused as exc:
        return None, [Problem(file, exc.line, exc.message, exc.remedy)]


class _Reader:
    """Builds the tree from parser events, so that nothing is ever constructed from a tag or an alias."""

    def __init__(self, file: str, events: Iterator[yaml.Event]) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._events = events
        self._lines: dict[Place, int] = {}

    def document(self) -> YamlTree:
        self._next()  # stream start
        if isinstance(self._next(), yaml.StreamEndEvent):
            raise _Refused(1, "the file is empty", "see docs/configuration.md for what belongs here")
        value = self._value(self._next(), ())
        self._next()  # document end
        following = self._next()
        if not isinstance(following, yaml.StreamEndEvent):
            raise _Refused(_line(following), "a second YAML document starts here", "keep one document per file")
        return YamlTree(self.file, value, self._lines)

    def _next(self) -> yaml.Event:
        return next(self._events)

    def _value(self, event: yaml.Event, place: Place) -> Any:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused(line, "anchors and aliases are not accepted", "write the value out where it is used")
        if getattr(event, "tag", None) is not None:
            raise _Refused(line, "YAML tags are not accepted", "remove the tag (the word after `!`)")
        if len(place) > MAX_DEPTH:
            raise _Refused(line, f"nested deeper than {MAX_DEPTH} levels", "flatten it")
        self._lines.setdefault(place, line)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(place)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(place)
        if isinstance(event, yaml.ScalarEvent):
            self._check_text(event, line)
            return _scalar(event)
        raise _Refused(line, "a value was expected here", "correct the YAML")  # pragma: no cover - the parser's grammar

    def _check_text(self, event: yaml.ScalarEvent, line: int) -> None:
        """What quotes let in and nobody sees: names and ids with it never match. A space alone can be meant, as a separator is."""
        text: str = event.value
        if event.style == '"' and (found := INVISIBLE.search(text)):
            self.problems.append(
                Problem(self.file, line, f"an invisible character, U+{ord(found.group()):04X}", "remove it")
            )
        if event.style not in ("|", ">") and text.strip() and text != text.strip():
            self.problems.append(Problem(self.file, line, "white space around a text", "remove it inside the quotes"))

    def _mapping(self, place: Place) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                raise _Refused(line, "a key must be plain text", "write `key: value`")
            key = event.value
            self._check_text(event, line)
            if key in members:
                self.problems.append(Problem(self.file, line, f"duplicate key `{key}`", "remove one of them"))
            self._lines[(*place, key)] = line
            members[key] = self._value(self._next(), (*place, key))
        return members

    def _sequence(self, place: Place) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event, (*place, len(items))))
        return items


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted and block text is text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        raise _Refused(
            _line(event), "fractions are not used anywhere", "write a whole number, or quote it if it is text"
        )
    return text

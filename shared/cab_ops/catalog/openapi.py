"""Operations of an OpenAPI document as catalog entries with a `call`: what can be said in the catalog is, the rest is listed.

A required part that cannot be said refuses the operation; an optional one is left out. Both are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from cab.domain.calls.tools import MAX_NAME_CHARS
from cab.domain.configured.actions import Action
from cab.domain.configured.calls import ID, PLACEHOLDER
from cab_ops.catalog.documents import Document, DocumentRefused, shown
from cab_ops.catalog.schemas import Unmapped, fixed_value, kind_of, merged, parameter_of, words

_METHODS: Final = ("get", "head", "post", "put", "patch", "delete")
_EFFECTS: Final[Mapping[str, str]] = {"get": "read", "head": "read", "delete": "destructive"}
_BODIES: Final[Mapping[str, str]] = {"application/json": "json", "application/x-www-form-urlencoded": "form"}
_NOT_DECLARED: Final = frozenset({"accept", "content-type", "authorization"})  # OpenAPI 3.1.0 section 4.8.12.2
_KEY_HEADER: Final = re.compile(r"(x-)?idempotency-key", re.IGNORECASE)
_MAX_NESTING: Final = 4


@dataclass
class Entry:
    """One action as values of connections.yaml, and what its reviewer should know."""

    action: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass
class Imported:
    """The entries in the order asked for; `refused` says by operation why there is none; `servers` are the document's own."""

    entries: list[Entry]
    refused: dict[str, str]
    servers: list[str]
    title: str


def import_operations(document: Document, *, connection: str, operations: tuple[str, ...]) -> Imported:
    """`operations`: operationIds, or `GET /path` where there is none; `=ACTION` behind one names its action.

    Raises: DocumentRefused when the document itself cannot be used.
    """
    known = dict(_operations(document))
    entries, refused = [], {}
    for given in operations:
        name, _, action_id = (given, "", "") if given in known else given.partition("=")
        found = known.get(name)
        try:
            if found is None:
                raise DocumentRefused("the document has no such operation")
            entry = _Operation(document, *found).entry(action_id or f"{connection}.{snake(name)}")
        except (DocumentRefused, Unmapped) as exc:
            refused[name] = str(exc)
        else:
            entries.append(entry)
    info = document.resolved(document.content.get("info", {}))
    servers = [
        shown(one["url"]) for one in _list(document.content.get("servers")) if isinstance(one, dict) and "url" in one
    ]
    return Imported(entries, refused, servers, shown(f"{info.get('title', 'untitled')} {info.get('version', '')}"))


def listed_operations(document: Document) -> list[str]:
    """One line for each operation: what `import_operations` calls it, and its summary."""
    lines = {}
    for name, (method, path, _, operation) in _operations(document):
        what = f"{method.upper()} {path}"
        lines[what] = shown(
            f"{name:<40} {what}  {operation.get('summary', '')}".rstrip() if name != what else what, limit=160
        )
    return list(lines.values())


def _operations(document: Document) -> Iterator[tuple[str, tuple[str, str, dict[str, Any], dict[str, Any]]]]:
    """Every operation by `METHOD /path`, and by its operationId."""
    for path, item in document.resolved(document.content.get("paths", {})).items():
        if not isinstance(item, dict):
            continue
        for method in _METHODS:
            if isinstance(operation := item.get(method), dict):
                found = (method, str(path), item, operation)
                yield f"{method.upper()} {path}", found
                if isinstance(name := operation.get("operationId"), str):
                    yield name, found


class _Operation:
    """One operation on its way to an entry."""

    def __init__(
        self, document: Document, method: str, path: str, item: dict[str, Any], operation: dict[str, Any]
    ) -> None:
        self._document = document
        self._method = method
        self._path = path
        self._operation = operation
        self._declared = self._declared_parameters(item)
        self._parameters: dict[str, dict[str, Any]] = {}
        self._notes: list[str] = []
        self._call: dict[str, Any] = {"method": method.upper()}
        self._identifier = ""

    def entry(self, action_id: str) -> Entry:
        """Raises: DocumentRefused, Unmapped: something that has to be sent cannot be said."""
        if len(action_id) > MAX_NAME_CHARS:
            raise Unmapped(
                f"its action would be {action_id}, longer than {MAX_NAME_CHARS} characters: name one with =ACTION"
            )
        self._take_path()
        self._take_query()
        self._take_headers()
        self._take_body()
        self._take_result()
        operation = self._operation
        title = (
            words(operation.get("summary"), limit=120) or words(operation.get("operationId"), limit=120) or action_id
        )
        action: dict[str, Any] = {"id": action_id, "title": title}
        if description := words(operation.get("description"), limit=1024):
            action["description"] = description
        action["effect"] = _EFFECTS.get(self._method, "write")
        if scopes := self._scopes():
            action["scopes"] = scopes
        action["identifier"] = self._identifier
        if self._parameters:
            action["parameters"] = self._parameters
        action["call"] = self._call
        if self._method == "post":
            self._notes.append("effect is write because the method is POST: correct it where it only searches")
        if operation.get("deprecated") is True:
            self._notes.append("the document calls this operation deprecated")
        try:
            Action.model_validate(action)
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise Unmapped(shown(f"does not fit the catalog: {where} {first['msg']}")) from None
        return Entry(action, self._notes)

    def _declared_parameters(self, item: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
        """By place and name; the operation's own win over those of its path."""
        found = {}
        for given in (*_list(item.get("parameters")), *_list(self._operation.get("parameters"))):
            one = self._document.resolved(given)
            found[str(one.get("in")), str(one.get("name"))] = one
        return found

    def _of(self, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for (where, name), one in self._declared.items():
            if where == place:
                yield name, one

    def _take_path(self) -> None:
        segments = self._path.strip("/").split("/")
        names = [found[1] for segment in segments if (found := re.fullmatch(r"\{([^{}]+)\}", segment))]
        declared = dict(self._of("path"))
        written = []
        before = "item"
        for segment in segments:
            found = re.fullmatch(r"\{([^{}]+)\}", segment)
            if found is None:
                if "{" in segment or "}" in segment:
                    raise Unmapped(f"the path has {shown(segment)}: a parameter must be a whole segment")
                before = re.sub(r"[^A-Za-z0-9_-]", "_", segment) or before
                written.append(segment)
            elif found[1] == names[-1]:  # what it acts on; the ones before say where
                written.append("{id}")
                self._identifier = f"{before}/{{id}}"
            else:
                schema = self._schema(declared.get(found[1], {}))
                written.append(
                    "{" + self._add(found[1], schema, required=True, shown_as=declared.get(found[1], {})) + "}"
                )
        if self._identifier:
            self._notes.append(f"id is {shown(names[-1])} of the document: letters, digits and . _ ~ - only")
        else:
            self._identifier = f"{before}/*"
        self._call["path"] = "/" + "/".join(written)

    def _take_query(self) -> None:
        query: dict[str, Any] = {}
        for name, one in self._of("query"):
            required = one.get("required") is True
            try:
                schema = self._schema(one)
                value = fixed_value(schema) if required else None
                query[name] = (
                    value if value is not None else "{" + self._add(name, schema, required=required, shown_as=one) + "}"
                )
                is_list = kind_of(schema) == "array"
                if is_list and (one.get("style", "form") != "form" or one.get("explode", True) is False):
                    del self._parameters[query.pop(name)[1:-1]]
                    raise Unmapped("is a list in one value: lists are sent as repeated pairs")
            except Unmapped as exc:
                self._left_out(f"query parameter {name}", exc, required=required)
        if query:
            self._call["query"] = query

    def _take_headers(self) -> None:
        headers: dict[str, str] = {}
        for name, one in self._of("header"):
            required = one.get("required") is True
            if name.lower() in _NOT_DECLARED:
                continue
            if _KEY_HEADER.fullmatch(name):
                self._call["idempotency_key"] = name
                self._notes.append(
                    f"{name} is said to make repeating safe: find out for how long, and what else must be equal"
                )
                continue
            schema = self._schema(one) if one.get("schema") else {}
            value = fixed_value(schema) if fixed_value(schema) is not None else schema.get("default")
            if required and isinstance(value, str):
                headers[name] = value
            else:
                self._left_out(f"header {name}", Unmapped("is not for agents to choose"), required=required)
        for name, one in self._of("cookie"):
            self._left_out(f"cookie {name}", Unmapped("would be a cookie"), required=one.get("required") is True)
        if headers:
            self._call["headers"] = headers

    def _take_body(self) -> None:
        if "requestBody" not in self._operation:
            return
        body = self._document.resolved(self._operation["requestBody"])
        content = _dict(body.get("content"))
        required = body.get("required") is True
        media = next((kind for kind in _BODIES if kind in content), None)
        try:
            if media is None:
                raise Unmapped(f"is {', '.join(map(shown, content)) or 'of no type'}: JSON and plain forms can be sent")
            schema = merged(self._document, content[media].get("schema", {}))
            if kind_of(schema) != "object" or not schema.get("properties"):
                raise Unmapped("is not an object with named members")
            filled = self._members(schema, "", required_above=required)
        except Unmapped as exc:
            self._left_out("the body", exc, required=required)
            return
        if _BODIES[media] == "form":
            self._call["encoding"] = "form"
        if filled or required:
            self._call["body"] = filled

    def _members(self, schema: dict[str, Any], above: str, *, required_above: bool, depth: int = 0) -> dict[str, Any]:
        """The members of an object of the body: placeholders, values that are fixed, and required objects below it."""
        filled: dict[str, Any] = {}
        needed = _list(schema.get("required")) if required_above else []
        for name, given in schema.get("properties", {}).items():
            path = f"{above}.{name}" if above else str(name)
            required = name in needed
            try:
                one = merged(self._document, given)
                if one.get("readOnly") is True:
                    continue
                if kind_of(one) == "object" and one.get("properties") and required and depth < _MAX_NESTING:
                    filled[name] = self._members(one, path, required_above=True, depth=depth + 1)
                    continue
                value = fixed_value(one) if required else None
                filled[name] = (
                    value if value is not None else "{" + self._add(path, one, required=required, shown_as=one) + "}"
                )
            except Unmapped as exc:
                self._left_out(f"member {path}", exc, required=required)
        return filled

    def _take_result(self) -> None:
        """`items` where a collection answers with an object that has one list of objects; a note where there is no JSON."""
        responses = {str(status): one for status, one in (self._operation.get("responses") or {}).items()}
        good = next((one for status, one in sorted(responses.items()) if status.startswith("2")), None)
        if good is None:
            return
        content = self._document.resolved(good).get("content") or {}
        json = next((kind for kind in content if kind.partition(";")[0].endswith(("/json", "+json"))), None)
        if json is None:
            if content and not any(kind.startswith("text/plain") for kind in content):
                self._notes.append(
                    f"the answer is {shown(next(iter(content)))}: say so in result.type, if agents may have it"
                )
            return
        try:
            schema = merged(self._document, content[json].get("schema", {}))
            lists = [name for name, one in schema.get("properties", {}).items() if self._is_list_of_objects(one)]
        except Unmapped:
            return
        if self._call["path"].endswith("/{id}"):  # one thing, whatever lists it has
            return
        if kind_of(schema) == "array":
            self._call["result"] = {"items": ""}
        elif len(lists) == 1:
            self._call["result"] = {"items": "/" + lists[0].replace("~", "~0").replace("/", "~1")}
        if "result" in self._call:
            self._notes.append(
                "the answer is a page of a list: name what agents need in result.select, and the cursor in result.next"
            )

    def _is_list_of_objects(self, schema: Any) -> bool:
        try:
            one = merged(self._document, schema)
            return kind_of(one) == "array" and kind_of(merged(self._document, one.get("items", {}))) == "object"
        except Unmapped:
            return False

    def _schema(self, parameter: dict[str, Any]) -> dict[str, Any]:
        if "schema" not in parameter:
            raise Unmapped("has no plain schema")
        return merged(self._document, parameter["schema"])

    def _add(self, name: str, schema: dict[str, Any], *, required: bool, shown_as: dict[str, Any]) -> str:
        """Declares a parameter, and returns its name in the catalog. Raises: Unmapped."""
        parameter = parameter_of(self._document, schema)
        ours = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "value"
        ours = f"_{ours}" if ours[0].isdigit() else ours
        if ours == ID and ("{" + ID + "}") in (self._call.get("path") or self._path):
            ours = "id_value"
        if ours in self._parameters or len(ours) > 64 or not PLACEHOLDER.fullmatch("{" + ours + "}"):
            raise Unmapped(f"has a name that another one has or that cannot be written: {shown(ours)}")
        if description := words(shown_as.get("description") or schema.get("description"), limit=1024):
            parameter["description"] = description
        if required:
            parameter["required"] = True
        if schema.get("format") == "password":
            parameter["redact"] = True
        self._parameters[ours] = parameter
        return ours

    def _scopes(self) -> list[str]:
        """Of the first alternative that OAuth is part of: the operation's own, else the document's."""
        schemes = _dict(_dict(self._document.content.get("components")).get("securitySchemes"))
        ways = self._operation.get("security", self._document.content.get("security"))
        found = []
        for way in _list(ways):
            for name, scopes in _dict(way).items():
                scheme = self._document.resolved(schemes.get(name, {}))
                if scheme.get("type") in ("oauth2", "openIdConnect"):
                    found.append([str(scope) for scope in _list(scopes)])
        if not found:
            self._notes.append("the document names no OAuth scopes: add the smallest ones that do")
            return []
        if len(found) > 1:
            others = "; ".join(" ".join(one) for one in found[1:])
            self._notes.append(shown(f"scopes may also be: {others}", limit=300))
        return found[0]

    def _left_out(self, what: str, why: Unmapped, *, required: bool) -> None:
        if required:
            raise Unmapped(f"{shown(what)} is required and {why}")
        self._notes.append(f"left out: {shown(what)} {why}")


def snake(name: str) -> str:
    """`listOpportunities`, `deals/list-all` or `GET /deals/{id}` as a part of an action's id."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    joined = "_".join(part.lower() for part in parts) or "operation"
    return joined if joined[0].isalpha() else f"op_{joined}"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

"""Operations of an OpenAPI document as catalog entries with a `call`: what can be said in the catalog is, the rest is listed.

A required part that cannot be said refuses the operation; an optional one is left out. Both are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from pydantic import ValidationError

from cab.domain.calls.tools import MAX_NAME_CHARS
from cab.domain.configured.actions import Action
from cab.domain.configured.calls import ID, PLACEHOLDER
from cab_ops.catalog.documents import Document, DocumentRefused, as_list, as_object, shown
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
    known: dict[str, list[_Found]] = {}
    for name, one in _operations(document):
        known.setdefault(name, []).append(one)
    entries: dict[str, Entry] = {}
    refused = {}
    for given in operations:
        name, _, action_id = (given, "", "") if given in known else given.partition("=")
        action_id = action_id or f"{prefix_of(connection)}.{snake(name)}"
        try:
            if action_id in entries:
                raise Unmapped(f"its action would be {shown(action_id)}, as that of another one: name one with =ACTION")
            # Each with the whole budget of look-ups, however many are asked for.
            entry = _Operation(Document(document.content), *_the_one(known.get(name, []))).entry(action_id)
        except (DocumentRefused, Unmapped) as exc:
            refused[name] = str(exc)
        else:
            entries[action_id] = entry
    info = as_object(document.content.get("info"))
    title = shown(f"{info.get('title', 'untitled')} {info.get('version', '')}")
    return Imported(list(entries.values()), refused, _servers(document.content), title)


def _the_one(found: list[_Found]) -> _Found:
    if not found:
        raise DocumentRefused("the document has no such operation")
    if len(found) > 1:
        places = ", ".join(f"{method.upper()} {path}" for method, path, *_ in found)
        raise DocumentRefused(shown(f"the document gives that name to several: say which of {places}", limit=300))
    return found[0]


def _servers(given: dict[str, Any]) -> list[str]:
    """The addresses that a document, a path or an operation is under, with what their variables may be."""
    found = []
    for one in as_list(given.get("servers")):
        if not isinstance(one, dict) or "url" not in one:
            continue
        url = str(one["url"])
        for name, variable in as_object(one.get("variables")).items():
            values = as_list(as_object(variable).get("enum")) or [as_object(variable).get("default")]
            url += f" ({name}: {', '.join(map(str, values))})"
        found.append(shown(url, limit=300))
    return found


def listed_operations(document: Document) -> list[str]:
    """One line for each operation: what `import_operations` calls it, and its summary."""
    lines: dict[str, str] = {}
    for name, (method, path, _, operation) in _operations(document):
        what = f"{method.upper()} {path}"
        lines[what] = shown(
            f"{name:<40} {what}  {operation.get('summary', '')}".rstrip() if name != what else what, limit=160
        )
    return list(lines.values())


_Found = tuple[str, str, dict[str, Any], dict[str, Any]]  # method, path, path item, operation


def _operations(document: Document) -> Iterator[tuple[str, _Found]]:
    """Every operation by `METHOD /path`, and by its operationId."""
    for path, given in as_object(document.content.get("paths")).items():
        try:
            item = document.resolved(given) | {name: value for name, value in given.items() if name != "$ref"}
        except DocumentRefused:
            continue  # none of its operations is known
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
        self._item = item
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
        if servers := _servers(operation) or _servers(self._item):
            self._notes.append(
                f"the document has this operation under {' or '.join(servers)}: api_base must say the same"
            )
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
        for given in (*as_list(item.get("parameters")), *as_list(self._operation.get("parameters"))):
            one = self._document.resolved(given)
            found[str(one.get("in")), str(one.get("name"))] = one
        return found

    def _of(self, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for (where, name), one in self._declared.items():
            if where == place:
                yield name, one

    def _take_path(self) -> None:
        if "?" in self._path or "#" in self._path:
            raise Unmapped("the path has a query or a fragment in it")
        segments = self._path.removeprefix("/").split("/")
        names = [found[1] for segment in segments if (found := re.fullmatch(r"\{([^{}]+)\}", segment))]
        declared = dict(self._of("path"))
        for name, one in declared.items():
            if one.get("style", "simple") != "simple":
                raise Unmapped(f"the path has {shown(name)} in style {shown(one['style'])}: only plain values are sent")
            if "schema" in one and kind_of(self._schema(one)) in ("array", "object"):
                raise Unmapped(f"the path has {shown(name)}, which is a list or an object")
        written = []
        before = "item"
        for segment in segments:
            found = re.fullmatch(r"\{([^{}]+)\}", segment)
            if found is None:
                if "{" in segment or "}" in segment:
                    raise Unmapped(f"the path has {shown(segment)}: a parameter must be a whole segment")
                before = re.sub(r"[^A-Za-z0-9_-]", "_", segment) or before
                written.append(quote(segment, safe="!$%&'()*+,;=:@~"))  # RFC 3986 section 3.3
            elif found[1] == names[-1]:  # what it acts on; the ones before say where
                written.append("{id}")
                self._identifier = f"{before}/{{id}}"
            else:
                given = declared.get(found[1], {})
                try:
                    written.append("{" + self._add(found[1], self._schema(given), required=True, shown_as=given) + "}")
                except Unmapped as exc:
                    self._left_out(f"path parameter {found[1]}", exc, required=True)
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
                if kind_of(schema) == "array" and not _is_repeated(one):
                    raise Unmapped("is a list in one value: lists are sent as repeated pairs")
                value = fixed_value(schema) if required else None
                query[name] = (
                    value if value is not None else "{" + self._add(name, schema, required=required, shown_as=one) + "}"
                )
            except (Unmapped, DocumentRefused) as exc:
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
            try:
                schema = self._schema(one) if required and "schema" in one else {}
                value = schema.get("default") if (fixed := fixed_value(schema)) is None else fixed
                if not isinstance(value, str):
                    raise Unmapped("is not for agents to choose")
                headers[name] = value
            except Unmapped as exc:
                self._left_out(f"header {name}", exc, required=required)
        for name, one in self._of("cookie"):
            self._left_out(f"cookie {name}", Unmapped("would be a cookie"), required=one.get("required") is True)
        if headers:
            self._call["headers"] = headers

    def _take_body(self) -> None:
        if "requestBody" not in self._operation:
            return
        body = self._document.resolved(self._operation["requestBody"])
        content = {
            str(kind).partition(";")[0].strip().lower(): one for kind, one in as_object(body.get("content")).items()
        }
        required = body.get("required") is True
        media = next((kind for kind in _BODIES if kind in content), None)
        try:
            if self._method in ("get", "head"):
                raise Unmapped(f"would be sent with {self._method.upper()}")
            if media is None:
                raise Unmapped(f"is {', '.join(map(shown, content)) or 'of no type'}: JSON and plain forms can be sent")
            media_type = self._document.resolved(content[media])
            schema = merged(self._document, media_type.get("schema", {}))
            if kind_of(schema) != "object" or not schema.get("properties"):
                raise Unmapped("is not an object with named members")
            ways = as_object(media_type.get("encoding")) if _BODIES[media] == "form" else {}
            filled = self._members(schema, "", required_above=required, ways=ways)
        except (Unmapped, DocumentRefused) as exc:
            self._left_out("the body", exc, required=required)
            return
        if _BODIES[media] == "form":
            self._call["encoding"] = "form"
        if filled or required:
            self._call["body"] = filled

    def _members(
        self,
        schema: dict[str, Any],
        above: str,
        *,
        required_above: bool,
        ways: Mapping[str, Any] | None = None,
        depth: int = 0,
    ) -> dict[str, Any]:
        """The members of an object of the body: placeholders, values that are fixed, and required objects below it.

        `ways`: how members of a form are written, where the document says so.
        """
        filled: dict[str, Any] = {}
        needed = [str(name) for name in as_list(schema.get("required"))] if required_above else []
        properties = as_object(schema.get("properties"))
        for name in needed:
            if name not in properties:
                path = f"{above}.{name}" if above else str(name)
                self._left_out(f"member {path}", Unmapped("is not described"), required=True)
        if schema.get("additionalProperties") not in (None, False) or schema.get("patternProperties"):
            self._notes.append(
                f"left out: members{f' of {shown(above)}' if above else ''} that the document does not name"
            )
        for name, given in properties.items():
            path = f"{above}.{name}" if above else str(name)
            required = name in needed
            try:
                one = merged(self._document, given)
                if one.get("readOnly") is True:
                    continue
                if not _is_plain(as_object((ways or {}).get(name)), is_list=kind_of(one) == "array"):
                    raise Unmapped("is written in a way of its own")
                if kind_of(one) == "object" and one.get("properties") and required and depth < _MAX_NESTING:
                    filled[name] = self._members(one, path, required_above=True, depth=depth + 1)
                    continue
                value = fixed_value(one) if required else None
                filled[name] = (
                    value if value is not None else "{" + self._add(path, one, required=required, shown_as=one) + "}"
                )
            except (Unmapped, DocumentRefused) as exc:
                self._left_out(f"member {path}", exc, required=required)
        return filled

    def _take_result(self) -> None:
        """`items` where a collection answers with an object that has one list of objects; a note where there is no JSON."""
        responses = {str(status): one for status, one in as_object(self._operation.get("responses")).items()}
        good = next((one for status, one in sorted(responses.items()) if status.startswith("2")), None)
        try:
            content = {str(kind): one for kind, one in as_object(self._document.resolved(good).get("content")).items()}
        except DocumentRefused:
            return
        json = next((kind for kind in content if kind.partition(";")[0].endswith(("/json", "+json"))), None)
        if json is None:
            if content and not any(kind.startswith("text/plain") for kind in content):
                self._notes.append(
                    f"the answer is {shown(next(iter(content)))}: say so in result.type, if agents may have it"
                )
            return
        try:
            schema = merged(self._document, as_object(content[json]).get("schema", {}))
            lists = [name for name, one in as_object(schema.get("properties")).items() if self._is_list_of_objects(one)]
            is_list = kind_of(schema) == "array"
        except (Unmapped, DocumentRefused):
            return
        if self._call["path"].endswith("/{id}"):  # one thing, whatever lists it has
            return
        if is_list:
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
        except (Unmapped, DocumentRefused):
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
        schemes = as_object(as_object(self._document.content.get("components")).get("securitySchemes"))
        ways = self._operation.get("security", self._document.content.get("security"))
        found = []
        for way in as_list(ways):
            for name, scopes in as_object(way).items():
                scheme = self._document.resolved(schemes.get(name) or {})
                if scheme.get("type") in ("oauth2", "openIdConnect"):
                    found.append([str(scope) for scope in as_list(scopes)])
        if not found:
            self._notes.append("the document names no OAuth scopes: add the smallest ones that do")
            return []
        if len(found) > 1:
            others = "; ".join(" ".join(one) for one in found[1:])
            self._notes.append(shown(f"scopes may also be: {others}", limit=300))
        return found[0]

    def _left_out(self, what: str, why: Exception, *, required: bool) -> None:
        if required:
            raise Unmapped(f"{shown(what)} is required and {why}")
        self._notes.append(f"left out: {shown(what)} {why}")


def _is_repeated(parameter: dict[str, Any]) -> bool:
    """Whether a list in it is written as one pair for each item (OpenAPI 3.1.0, "Style Values")."""
    style = parameter.get("style", "form")
    return style == "form" and parameter.get("explode", True) is not False


def _is_plain(way: dict[str, Any], *, is_list: bool) -> bool:
    """Whether a member of a form is written as forms are, whatever its Encoding Object says besides."""
    return way.get("contentType", "text/plain") == "text/plain" and (not is_list or _is_repeated(way))


def prefix_of(connection: str) -> str:
    """What the ids of a connection's actions begin with: its own id, as far as they may hold it."""
    return connection.replace("-", "_")


def snake(name: str) -> str:
    """`listOpportunities`, `deals/list-all` or `GET /deals/{id}` as a part of an action's id."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    joined = "_".join(part.lower() for part in parts) or "operation"
    return joined if joined[0].isalpha() else f"op_{joined}"

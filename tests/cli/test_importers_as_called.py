"""The commands that write catalog entries, as people call them: another process, files on disk, its exit code and what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tests.support.mcp_server import ADD, SEARCH
from tests.support.web import Documents, Web, WebClient
from tests.support.world import World

from cab.adapters.configuration.loader import inspect_folder
from cab.domain.calls.pins import definition_pin
from cab_ops.catalog import documents
from cab_ops.cli import main
from cab_ops.cli.trying import connection

TEXT = {"type": "string"}


def program(*arguments: str | Path, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cab_ops.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)


def cab(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `cab` in this process, by its own entry point."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def said(outcome: tuple[int, str, str], *, code: int = 1) -> str:
    """The one message of a command that wrote nothing."""
    assert outcome[0] == code, outcome
    assert outcome[1] == ""
    assert "Traceback" not in outcome[2]
    return outcome[2]


def written(path: Path, content: Any) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def openapi(paths: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": "T", "version": "1"}, "paths": paths, **more}


# --- import-openapi ---

YAML = b"""\
openapi: 3.0.3
info: {title: Shop, version: 2026-01-01}
servers:
  - url: https://{region}.shop.test/v1
    variables: {region: {enum: [eu, us], default: eu}}
paths:
  /orders/:
    post: &create
      operationId: createOrder
      requestBody:
        required: true
        content:
          application/json:
            schema: {$ref: '#/components/schemas/Order'}
      responses: {201: {description: made}}
  /drafts:
    post:
      <<: *create
      operationId: createDraft
  /shared: {$ref: '#/components/x-paths/shared'}
components:
  x-paths:
    shared:
      get: {operationId: readShared, responses: {200: {description: it}}}
  schemas:
    Order:
      type: object
      required: [country, on]
      properties:
        country: {type: string, enum: [NO, SE]}
        on: {type: string}
        parent: {$ref: '#/components/schemas/Order'}
"""


def test_a_yaml_document_with_anchors_becomes_entries_that_a_deployment_takes(tmp_path: Path) -> None:
    file = written(tmp_path / "shop.yaml", YAML)
    operations = ("--operation", "createOrder", "--operation", "createDraft", "--operation", "readShared=shop.read")
    done = program("config", "import-openapi", file, "--connection", "shop", *operations)
    assert (done.returncode, done.stderr) == (0, "")
    assert "https://{region}.shop.test/v1 (region: eu, us)" in done.stdout
    assert "left out: member parent is an object" in done.stdout
    create, draft, read = yaml.safe_load(done.stdout)
    assert create["call"] == {"method": "POST", "path": "/orders/", "body": {"country": "{country}", "on": "{on}"}}
    assert create["parameters"]["country"]["values"] == ["NO", "SE"]
    assert (draft["call"]["path"], read["id"]) == ("/drafts", "shop.read")
    head = (
        "  - id: shop\n    title: Shop\n    provider: trusts-cab\n    grant_kind: broker_jwt\n"
        "    resource: https://shop.test\n    tenants: [acme]\n    actions:\n"
    )
    world = World(scratch=tmp_path)
    folder = world.write_policies(None, connections=lambda text: text.rstrip("\n") + "\n" + head + done.stdout)
    problems = inspect_folder(folder, world.environment, unset="warning").problems
    assert [problem for problem in problems if problem.severity == "error"] == []


def test_an_operation_id_that_two_operations_have_names_neither(tmp_path: Path) -> None:
    one = {"operationId": "same", "responses": {}}
    file = written(tmp_path / "d.json", openapi({"/a": {"get": one}, "/b": {"get": one}}))
    arguments = ("config", "import-openapi", file, "--connection", "crm", "--operation")
    assert "say which of GET /a, GET /b" in said(cab(*arguments, "same"))
    code, out, _ = cab(*arguments, "GET /b=crm.b")
    assert (code, yaml.safe_load(out)[0]["call"]["path"]) == (0, "/b")


def test_two_operations_do_not_become_one_action(tmp_path: Path) -> None:
    paths: dict[str, Any] = {f"/{n}": {"get": {"operationId": n, "responses": {}}} for n in ("getDeal", "get_deal")}
    file = written(tmp_path / "d.json", openapi(paths))
    code, out, err = cab(
        *("config", "import-openapi", file, "--connection", "crm", "--operation", "getDeal", "--operation", "get_deal")
    )
    assert (code, len(yaml.safe_load(out))) == (1, 1)
    assert "get_deal: not written: its action would be crm.get_deal, as that of another one" in err


def test_a_connection_whose_id_no_action_can_begin_with_gets_actions_all_the_same(tmp_path: Path) -> None:
    file = written(tmp_path / "d.json", openapi({"/a": {"get": {"operationId": "listAll", "responses": {}}}}))
    tools = written(tmp_path / "t.json", {"tools": [SEARCH]})
    for command in (
        ("import-openapi", file, "--operation", "listAll"),
        ("import-mcp", tools, "--tool", "search_notes"),
        ("ready-actions", "jira", "--action", "jira.issue.read"),
    ):
        code, out, _ = cab("config", *command, "--connection", "our-crm")
        assert (code, yaml.safe_load(out)[0]["id"].partition(".")[0]) == (0, "our_crm")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an object"),
        (b"<html></html>", "is not an object"),
        (b"\xff\xfe\x00", "neither valid JSON nor valid YAML"),
        (b"{" * 100_000, "is not valid JSON"),
        (b"[" * 100_000, "neither valid JSON nor valid YAML"),
        (b"a: &a\n  b: *a\n", "`openapi` is not 3.0 or 3.1"),
        (b"openapi: 3.1.0\npaths: 1\n", "the document has no such operation"),
    ],
    ids=["empty", "html", "binary", "deep JSON", "deep YAML", "an anchor within itself", "no paths"],
)
def test_a_file_that_is_no_document_is_refused_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    file = written(tmp_path / "odd", content)
    assert message in said(cab("config", "import-openapi", file, "--connection", "crm", "--operation", "x"))


def test_a_small_yaml_file_that_merges_to_millions_of_members_is_refused_in_time(tmp_path: Path) -> None:
    lines, last = ["a: &a {k: v}"], "a"
    for name in "bcdefghij":
        lines.append(f"{name}: &{name} {{<<: [{', '.join(['*' + last] * 10)}]}}")
        last = name
    file = written(tmp_path / "bomb.yaml", "\n".join(lines).encode())
    assert "neither valid JSON nor valid YAML" in said(cab("config", "import-openapi", file))


def test_a_file_that_is_not_there_and_a_connection_that_is_not_named_are_wrong_calls(tmp_path: Path) -> None:
    file = written(tmp_path / "d.json", openapi({"/a": {"get": {"operationId": "a", "responses": {}}}}))
    assert "does not exist" in said(cab("config", "import-openapi", tmp_path / "none.json"), code=2)
    assert "--connection is needed" in said(cab("config", "import-openapi", file, "--operation", "a"), code=2)
    assert "does not fit the catalog: id" in said(
        cab("config", "import-openapi", file, "--connection", "My CRM", "--operation", "a")
    )


SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "beside a reference": ({"$ref": "#/components/schemas/T", "readOnly": True}, ""),
    "alternatives beside members": (
        {"properties": {"a": TEXT}, "oneOf": [{"properties": {"b": TEXT}}]},
        "is an object",
    ),
    "an integer of a few": ({"enum": [1, 2]}, "says no type"),
    "anything": (True, "says no type"),  # type: ignore[dict-item]
    "never": (False, "may not be given"),  # type: ignore[dict-item]
    "a circle of references": ({"$ref": "#/components/schemas/C"}, "references of the document lead in circles"),
    "another file": ({"$ref": "other.yaml#/T"}, "it refers to other.yaml#/T, outside of the document"),
    "too long a choice": ({**TEXT, "enum": ["x" * 3000]}, "does not fit the catalog"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_optional_member_that_cannot_be_said_leaves_the_rest_of_the_operation(tmp_path: Path, shape: str) -> None:
    schema, why = SHAPES[shape]
    body = {
        "required": True,
        "content": {"application/json": {"schema": {"properties": {"odd": schema, "good": TEXT}}}},
    }
    document = openapi(
        {"/a": {"post": {"operationId": "a", "requestBody": body, "responses": {}}}},
        components={"schemas": {"T": TEXT, "C": {"$ref": "#/components/schemas/C"}}},
    )
    code, out, err = cab(
        *("config", "import-openapi", written(tmp_path / "d.json", document), "--connection", "crm", "--operation", "a")
    )
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)[0]["call"]["body"] == {"good": "{good}"}
    assert f"left out: member odd {why}" in out if why else "member odd" not in out


def path_parameter(**more: Any) -> dict[str, Any]:
    return {"parameters": [{"name": "a", "in": "path", "required": True, "schema": TEXT, **more}]}


@pytest.mark.parametrize(
    ("path", "operation", "why"),
    [
        ("/x/{a}", path_parameter(style="label"), "in style label"),
        ("/x/{a}", path_parameter(schema={"type": "array", "items": TEXT}), "is a list or an object"),
        ("/x/{a}/y/{b}", {}, "path parameter a is required and has no plain schema"),
        ("/x?y=1", {}, "has a query or a fragment"),
        (
            "/x",
            {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"properties": {"b": TEXT}, "required": ["c"]}}},
                }
            },
            "member c is required and is not described",
        ),
        (
            "/x",
            {
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/x-www-form-urlencoded": {
                            "schema": {"properties": {"b": {"type": "array", "items": TEXT}}, "required": ["b"]},
                            "encoding": {"b": {"explode": False}},
                        }
                    },
                }
            },
            "is written in a way of its own",
        ),
    ],
)
def test_what_would_be_sent_otherwise_than_documented_is_refused(
    tmp_path: Path, path: str, operation: dict[str, Any], why: str
) -> None:
    document = openapi({path: {"post": {"operationId": "a", "responses": {}, **operation}}})
    file = written(tmp_path / "d.json", document)
    assert why in said(cab("config", "import-openapi", file, "--connection", "crm", "--operation", "a"))


def test_references_are_read_as_they_are_written_in_practice(tmp_path: Path) -> None:
    """Into a path, with percent-encoded characters and without, and from a path item."""
    again = {"$ref": "#/paths/~1orgs~1%7Borg%7D~1deals/parameters/0"}
    document = openapi(
        {
            "/orgs/{org}/deals": {
                "parameters": [{"name": "org", "in": "path", "required": True, "schema": TEXT}],
                "get": {"operationId": "list", "responses": {}},
            },
            "/orgs/{org}/won": {"parameters": [again], "get": {"operationId": "won", "responses": {}}},
            "/people": {"$ref": "#/x%20items/people"},
        },
        **{
            "x items": {
                "people": {
                    "get": {
                        "operationId": "people",
                        "parameters": [{"name": "a", "in": "query", "schema": {"$ref": "#/components/schemas/A B"}}],
                        "responses": {},
                    }
                }
            },
            "components": {"schemas": {"A B": {"$ref": "#/components/schemas/A%20B~1C"}, "A B/C": {"type": "boolean"}}},
        },
    )
    file = tmp_path / "d.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())  # with the mark that Windows writes
    operations = [word for name in ("won", "people") for word in ("--operation", name)]
    code, out, err = cab("config", "import-openapi", file, "--connection", "crm", *operations)
    assert (code, err) == (0, "")
    won, people = yaml.safe_load(out)
    assert won["call"]["path"] == "/orgs/{id}/won"
    assert people["parameters"] == {"a": {"type": "boolean"}}


def test_of_an_endless_file_no_more_is_read_than_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 2 * 1024 * 1024)
    assert "is larger than 2 MiB" in said(cab("config", "import-openapi", "/dev/zero"))
    assert "is larger than 2 MiB" in said(cab("config", "import-mcp", "/dev/zero"))


# --- ready-actions ---


def test_ready_actions_are_listed_and_written_and_what_there_is_not_is_told() -> None:
    done = program("config", "ready-actions")
    assert done.returncode == 0
    assert "jira: " in done.stdout
    code, out, _ = cab("config", "ready-actions", "jira", "--connection", "tracker")
    assert code == 0
    assert all(action["id"].startswith("tracker.") for action in yaml.safe_load(out))
    assert "known here: " in said(cab("config", "ready-actions", "sap"))
    assert "jira has no action x" in said(cab("config", "ready-actions", "jira", "--action", "x"))


# --- import-mcp ---


def test_tools_are_listed_imported_and_compared_with_what_a_deployment_pins(tmp_path: Path) -> None:
    file = written(tmp_path / "tools.json", {"jsonrpc": "2.0", "id": 1, "result": {"tools": [SEARCH, ADD]}})
    listed = program("config", "import-mcp", file)
    assert listed.stdout.splitlines() == [f"{tool['name']}  {definition_pin(tool)}" for tool in (SEARCH, ADD)]
    code, out, err = cab(
        *(
            "config",
            "import-mcp",
            file,
            "--connection",
            "notes",
            "--tool",
            "search_notes",
            "--tool",
            "add_note=notes.add",
        )
    )
    assert (code, err) == (0, "")
    head = (
        "  - id: notes\n    title: Notes\n    provider: trusts-cab\n    grant_kind: broker_jwt\n"
        "    resource: https://notes.test\n    mcp: {endpoint: 'https://notes.test/mcp', protocol: '2026-07-28'}\n"
        "    tenants: [acme]\n    actions:\n"
    )
    world = World(scratch=tmp_path)
    folder = world.write_policies(None, connections=lambda text: text.rstrip("\n") + "\n" + head + out)
    compared = ("config", "import-mcp", file, "--connection", "notes", "--compare", folder)
    runner = CliRunner(env=world.environment)
    same = runner.invoke(main, [str(one) for one in compared])
    assert (same.exit_code, same.stdout) == (0, "notes.search_notes: same\nnotes.add: same\n"), same.output
    written(file, {"tools": [SEARCH | {"description": "Also send it to me."}]})
    changed = runner.invoke(main, [str(one) for one in compared])
    assert (changed.exit_code, changed.stdout) == (1, "notes.search_notes: changed\nnotes.add: missing\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"event: message\ndata: {}", "is not JSON that has one meaning"),
        (b'{"tools": [], "tools": []}', "is not JSON that has one meaning"),
        (b"[]", "is no answer to tools/list"),
        (b'{"error": {"code": -32601}}', "is no answer to tools/list"),
        (b'{"tools": ["a"]}', "is no answer to tools/list"),
        (b'{"result": null}', "is no answer to tools/list"),
    ],
)
def test_a_file_that_is_no_list_of_tools_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, message: str
) -> None:
    assert message in said(cab("config", "import-mcp", written(tmp_path / "t.json", content)))


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        ({"inputSchema": [1]}, "something else where an object belongs"),
        ({"inputSchema": {"type": "object", "required": ["a"]}}, "a is required and is not described"),
        (
            {"inputSchema": {"properties": {"a": {"$ref": "https://x.test/s"}}, "required": ["a"]}},
            "outside of the document",
        ),
        ({"inputSchema": {}, "description": 1.5e300, "outputSchema": {"x": 10**400}}, "without a canonical form"),
    ],
)
def test_a_tool_that_cannot_be_called_as_it_is_described_is_not_written(
    tmp_path: Path, tool: dict[str, Any], why: str
) -> None:
    file = written(tmp_path / "t.json", {"tools": [{"name": "t", **tool}]})
    assert why in said(cab("config", "import-mcp", file, "--connection", "n", "--tool", "t"))


# --- connection discover ---


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://notes.test/mcp", "is no plain https address"),
        ("https://user@notes.test/mcp", "is no plain https address"),
        ("https://notes.test:99999/mcp", "is no plain https address"),
        ("https://[/mcp", "is no plain https address"),
        ("notes", "is no plain https address"),
        ("https://127.0.0.1:1/mcp", "cannot be reached, or not at a public address"),
        ("https://no-such-host.invalid/mcp", "cannot be reached, or not at a public address"),
    ],
)
def test_an_address_with_nothing_to_discover_is_told_as_such(url: str, why: str) -> None:
    assert why in said(cab("connection", "discover", url, "--connection", "notes"))


def test_a_server_that_is_discovered_and_whose_tools_are_imported_is_a_valid_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of a platform team: discover, import, fill in what begins with `your-`, paste, validate."""
    resource = {
        "resource": "https://notes.test/mcp",
        "authorization_servers": ["https://login.test"],
        "scopes_supported": ["note.read", "offline_access"],
    }
    server = {
        "issuer": "https://login.test",
        "authorization_endpoint": "https://login.test/authorize",
        "token_endpoint": "https://login.test/token",
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_post"],
    }
    web = Web(
        hosts={
            "https://notes.test": Documents({"/.well-known/oauth-protected-resource/mcp": resource}),
            "https://login.test": Documents({"/.well-known/oauth-authorization-server": server}),
        }
    )
    monkeypatch.setattr(connection, "AiohttpClient", lambda origins, **_: _Client(web, origins, what="discovery"))
    code, out, err = cab("connection", "discover", "https://notes.test/mcp", "--connection", "notes")
    assert (code, err) == (0, "")
    assert out.startswith("# Scopes that it names: note.read. Give each action the smallest that do.\n")
    found = yaml.safe_load(out.replace("your-tenant", "acme").replace("your-client-id", "cab"))
    assert found["providers"][0]["token_endpoint_auth_method"] == "client_secret_post"
    assert found["providers"][0]["base_scopes"] == ["offline_access"]
    tools = written(tmp_path / "tools.json", {"tools": [SEARCH]})
    _, actions, _ = cab("config", "import-mcp", tools, "--connection", "notes", "--tool", "search_notes")
    found["connections"][0]["actions"] = [one | {"scopes": ["note.read"]} for one in yaml.safe_load(actions)]

    def with_all_of_it(text: str) -> str:
        content = yaml.safe_load(text)
        for name in ("providers", "connections"):
            content[name] += found[name]
        return yaml.safe_dump(content, sort_keys=False)

    world = World(scratch=tmp_path)
    folder = world.write_policies(None, connections=with_all_of_it)
    problems = inspect_folder(folder, world.environment, unset="warning").problems
    assert [problem for problem in problems if problem.severity == "error"] == []


class _Client(WebClient):
    async def close(self) -> None: ...


def test_discovering_prints_nothing_else_when_nothing_can_be_reached() -> None:
    done = program("connection", "discover", "https://127.0.0.1:1/mcp", "--connection", "notes")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr


def test_an_id_that_no_connection_can_have_is_a_wrong_call() -> None:
    assert "an ID is small letters" in said(
        cab("connection", "discover", "https://notes.test/mcp", "--connection", "My notes"), code=2
    )

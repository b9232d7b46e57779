"""The catalog entries that come with CAB: each can be pasted as it stands, says where it was read, and sends what it declares."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support.world import World

from cab.adapters.configuration.checks.urls import url_mistake
from cab.adapters.configuration.loader import inspect_folder
from cab.adapters.configuration.shipped import shipped_providers
from cab.adapters.configuration.yaml_tree import read_yaml
from cab.domain.calls.rendering import render
from cab.domain.calls.tools import MAX_NAME_CHARS, detail_of, input_schema, tool_name
from cab.domain.configured.actions import Action, Effect, Parameter
from cab.domain.configured.calls import Call
from cab.domain.configured.connections import Connection
from cab.domain.intents import Intent
from cab_ops.catalog.ready import ReadyCatalog, ReadyEntry, ready_catalogs
from cab_ops.cli.config import config_group

CATALOGS = {name: catalog for name, (catalog, _) in ready_catalogs().items()}
ENTRIES = {entry.action.id: (catalog, entry) for catalog in CATALOGS.values() for entry in catalog.entries}
every_entry = pytest.mark.parametrize(("catalog", "entry"), ENTRIES.values(), ids=ENTRIES)


def a_value(parameter: Parameter) -> Any:
    match parameter.type:
        case "integer":
            return parameter.minimum
        case "boolean":
            return True
        case "strings":
            return ["one", "two"]
        case _:
            return parameter.values[0] if parameter.values else "..x/y z"[: parameter.longest]


def call_of(action: Action) -> Call:
    assert isinstance(action.call, Call)
    return action.call


def rendered(catalog: ReadyCatalog, action: Action) -> Any:
    connection = Connection(
        id="x",
        title="X",
        provider=catalog.provider,
        resource="https://x.test",
        api_base=catalog.api_base,
        tenants=("acme",),
        client_id="cab",
        actions=(action,),
    )
    arguments = {name: a_value(parameter) for name, parameter in action.parameters.items()}
    if action.identifier.endswith("{id}"):
        arguments["id"] = "ID-1"
    detail = detail_of(action, connection, arguments, "why")
    intent = Intent(action, "x", "https://x.test", detail["identifier"], detail["parameters"], None, None)
    return render(action, connection, intent)


def test_the_systems_people_ask_for_have_at_least_five_actions() -> None:
    assert set(CATALOGS) == {"salesforce", "jira", "servicenow", "hubspot", "github", "google_calendar", "bigquery"}
    assert all(5 <= len(catalog.entries) <= 10 for catalog in CATALOGS.values())
    assert len(ENTRIES) == sum(len(catalog.entries) for catalog in CATALOGS.values())


@pytest.mark.parametrize("name", CATALOGS)
def test_a_catalog_is_of_a_known_preset_and_says_where_its_calls_go(name: str) -> None:
    catalog = CATALOGS[name]
    assert catalog.provider in shipped_providers()
    yours = re.sub(r"\b[A-Z_]{4,}\b", "yours", catalog.api_base)  # the part that only you know
    assert url_mistake(yours, allow_loopback_http=False) is None
    assert any("Not tried" in note for note in catalog.notes)
    assert {entry.action.id.partition(".")[0] for entry in catalog.entries} == {name}


@every_entry
def test_an_entry_sends_every_value_that_it_declares(catalog: ReadyCatalog, entry: ReadyEntry) -> None:
    call = rendered(catalog, entry.action)
    assert call.url.startswith(catalog.api_base + "/")
    assert "/../" not in call.url
    sent = call.url + (call.body or b"").decode()
    for name, parameter in entry.action.parameters.items():
        value = a_value(parameter)
        for item in value if isinstance(value, list) else [value]:
            written = str(item).lower() if isinstance(item, bool) else str(item)
            assert written in sent or written.replace("/", "%2F").replace(" ", "%20") in sent, name


@every_entry
def test_a_tool_of_an_entry_can_be_listed_and_named_by_every_client(catalog: ReadyCatalog, entry: ReadyEntry) -> None:
    assert (
        len(tool_name(entry.action.id)) <= MAX_NAME_CHARS - 10
    )  # a connection's id may be longer than the system's name
    assert input_schema(entry.action)["additionalProperties"] is False


@every_entry
def test_an_entry_that_can_answer_with_a_list_says_what_of_it_is_given_on(
    catalog: ReadyCatalog, entry: ReadyEntry
) -> None:
    call = call_of(entry.action)
    if call.method == "GET" or entry.action.effect is Effect.READ:
        assert call.result.select or entry.action.id == "bigquery.row.list"  # its rows have no names


@every_entry
def test_only_a_change_to_named_values_is_called_idempotent(catalog: ReadyCatalog, entry: ReadyEntry) -> None:
    call = call_of(entry.action)
    if call.idempotent:
        assert call.method == "PATCH"
        assert entry.action.id.endswith(".update")
    assert call.idempotency_key is None  # none of these systems was found to know one


@pytest.mark.parametrize("name", CATALOGS)
def test_what_is_printed_is_read_by_cab_under_the_connections_own_name(name: str) -> None:
    printed = CliRunner().invoke(config_group, ["ready-actions", name, "--connection", "sys"])
    assert printed.exit_code == 0
    tree, problems = read_yaml("connections.yaml", f"actions:\n{printed.output}".encode())
    assert tree is not None
    assert not problems
    read = [Action.model_validate(entry) for entry in tree.value["actions"]]
    expected = [entry.action for entry in CATALOGS[name].entries]
    assert [action.id for action in read] == [f"sys.{action.id.partition('.')[2]}" for action in expected]
    assert [call_of(action) for action in read] == [call_of(action) for action in expected]


def test_all_of_them_make_a_valid_deployment_with_their_presets(tmp_path: Path) -> None:
    """Connections are called as people would call them, with the values that the presets' parameters give as examples."""
    text = ""
    for name, catalog in CATALOGS.items():
        connection = f"our-{name.replace('_', '-')}"
        printed = CliRunner().invoke(config_group, ["ready-actions", name, "--connection", connection])
        assert printed.exit_code == 0
        parameters = shipped_providers()[catalog.provider].get("parameters", {})
        values = json.dumps({key: one["example"] for key, one in parameters.items() if "default" not in one})
        text += (
            f"  - id: {connection}\n    title: Ours\n    provider: {catalog.provider}\n    provider_parameters: {values}\n"
            f"    resource: https://{connection}.test\n    tenants: [acme]\n    client_id: cab\n    allow_unnarrowed: true\n"
            f"    client_secret: {{secret: cab-provider-crm, version: 1}}\n    actions:\n{printed.stdout}"
        )
    world = World(scratch=tmp_path)
    folder = world.write_policies(None, connections=lambda given: given.rstrip("\n") + "\n" + text)
    problems = inspect_folder(folder, world.environment, unset="warning").problems
    assert [problem for problem in problems if problem.severity == "error"] == []


def test_sources_and_what_is_not_known_stand_above_the_entry() -> None:
    printed = CliRunner().invoke(config_group, ["ready-actions", "hubspot", "--action", "hubspot.task.create"]).output
    entry = ENTRIES["hubspot.task.create"][1]
    assert f"# Read in: {entry.source}" in printed
    assert entry.unknown
    assert all(f"# Not known: {sentence}" in printed for sentence in entry.unknown)
    assert printed.count("- id: ") == 1


def test_they_are_listed_with_what_they_do() -> None:
    listed = CliRunner().invoke(config_group, ["ready-actions"]).output
    for action_id, (_, entry) in ENTRIES.items():
        assert any(line.split()[:2] == [action_id, entry.action.effect.value] for line in listed.splitlines())


def test_programs_get_one_json_object() -> None:
    answer = json.loads(CliRunner().invoke(config_group, ["ready-actions", "jira", "--json"]).output)
    assert (answer["provider"], len(answer["entries"])) == ("atlassian", len(CATALOGS["jira"].entries))


@pytest.mark.parametrize(
    ("words", "told"), [(["oracle"], "no actions for oracle"), (["jira", "--action", "x"], "jira has no action x")]
)
def test_what_is_not_there_is_told(words: list[str], told: str) -> None:
    result = CliRunner().invoke(config_group, ["ready-actions", *words])
    assert (result.exit_code, told in result.output) == (1, True)

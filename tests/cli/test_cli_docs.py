"""docs/cli.md shows every command, and nothing that is not one; what docs/audit.md and docs/cli.md show is true."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.cli.test_explain import ACME, ENVIRONMENT

from cab.adapters.google_cloud.bigquery.audit_schema import VIEWS
from cab_ops.cli import main
from cab_ops.cli.explain.command import explain_command

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLI = (DOCS / "cli.md").read_text("utf-8")
AUDIT = (DOCS / "audit.md").read_text("utf-8")


def commands(group: click.Group, path: tuple[str, ...] = ("cab",)) -> Iterator[tuple[str, click.Command]]:
    """Every command people can call, by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(main))
SECTIONS = dict(re.findall(r"^### `(cab [^`]+)`\n(.*?)(?=^##|\Z)", CLI, flags=re.MULTILINE | re.DOTALL))


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    assert sorted(SECTIONS) == sorted(COMMANDS), "docs/cli.md has one section per command of `cab`"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_example_uses_the_command_with_options_it_has(name: str) -> None:
    (example,) = re.findall(r"```sh\n([^`]+)\n```", SECTIONS[name])
    unwrapped = re.sub(r'^eval "\$\((.*)\)"$', r"\1", example)
    words = shlex.split(unwrapped)
    depth = len(name.split())
    assert words[:depth] == name.split()
    command = COMMANDS[name]
    with command.make_context(name, words[depth:], resilient_parsing=True) as context:
        assert context.args == []
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_request_of_the_page_is_explained_as_the_page_shows() -> None:
    (request,) = re.findall(r"```json\n(.*?)\n```", CLI, flags=re.DOTALL)
    (shown,) = re.findall(r"The end of the answer:\n```\n(.*?)\n```", CLI, flags=re.DOTALL)
    assert json.loads(request)
    result = CliRunner(env=ENVIRONMENT).invoke(explain_command, ["-", "--config", str(ACME)], input=request)
    assert result.stdout.endswith(shown + "\n")


def test_every_view_has_its_section() -> None:
    headings = re.findall(r"^### (\w+):", AUDIT, flags=re.MULTILINE)
    assert sorted(headings) == sorted(VIEWS)


@pytest.mark.parametrize("command", re.findall(r"^\$ (cab audit .+)$", AUDIT, flags=re.MULTILINE))
def test_commands_shown_on_the_audit_page_exist(command: str) -> None:
    words = shlex.split(command)
    found = COMMANDS[" ".join(words[:3])]
    with found.make_context(words[2], words[3:], resilient_parsing=True) as context:
        assert context.args == []

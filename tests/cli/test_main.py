"""The command `cab` itself: every subcommand can be loaded, and help loads none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cab_ops.cli import main


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_listed_subcommand_can_be_loaded(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output


def test_an_unknown_subcommand_is_refused_with_one_sentence() -> None:
    result = CliRunner().invoke(main, ["nothing"])
    assert result.exit_code == 2
    assert "No such command 'nothing'." in result.output


def test_help_lists_all_subcommands_and_imports_none() -> None:
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from cab_ops.cli import main\n"
        "print(CliRunner().invoke(main, ['--help']).output)\n"
        "heavy = [name for name in ('pydantic', 'google.api_core', 'grpc', 'cab_dev', 'cab.domain') if name in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    for name in ("dev", "config", "explain", "audit", "grants", "keys"):
        assert f"  {name} " in done.stdout


def test_a_file_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["config", "providers", "--compile", str(tmp_path / "nowhere" / "x")])
    assert (result.exit_code, result.output) == (1, f"Error: {tmp_path}/nowhere/x: No such file or directory\n")


def test_a_full_disk_is_told_in_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cab_ops.cli", "config", "providers"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
    assert (done.returncode, done.stderr) == (1, "Error: The output: No space left on device\n")


@pytest.mark.parametrize("command", [("keys", "list", "--project"), ("grants", "allow", "--url", "http://127.0.0.1:1")])
def test_an_argument_that_is_no_text_is_wrong_use(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*command, "\udcff"])
    assert (result.exit_code, "An argument is no UTF-8 text." in result.output) == (2, True)


@pytest.mark.parametrize("command", [("doctor",), ("connection", "check"), ("idp", "check")], ids=" ".join)
def test_what_examines_a_deployment_finds_its_folder_in_the_same_variable(command: tuple[str, ...]) -> None:
    """The doctor's remedies name the others."""
    found: click.Command | None = main
    for name in command:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), name)
    assert found is not None
    (folder,) = [it for it in found.params if "--config" in it.opts]
    assert folder.envvar == "CAB_CONFIG_DIR"


@pytest.mark.parametrize("an_id", ["-5o7GxyFrDJPQj5pQ0Lxh", "-hWUdmtWzqU7cxyFrDJPQ", "--o7GxyFrDJPQj5pQ0Lxh", "-"])
@pytest.mark.parametrize("command", [("grants", "show"), ("grants", "allow"), ("audit", "trace")], ids=" ".join)
def test_an_id_may_begin_with_a_dash(command: tuple[str, str], an_id: str) -> None:
    """Ids are base64url: one in 64 does."""
    parent = click.Context(main, **main.context_settings)
    group, name = main.get_command(parent, command[0]), command[1]
    assert isinstance(group, click.Group)
    called = group.get_command(parent, name)
    assert called is not None
    options = ["--url", "http://127.0.0.1:1"] if name == "allow" else ["--project", "demo"]
    for arguments in ([an_id, *options], [*options, an_id]):
        context = called.make_context(name, arguments, parent=parent)
        assert an_id in context.params.values()


def test_an_option_that_a_command_with_an_id_does_not_know_is_refused() -> None:
    result = CliRunner().invoke(main, ["grants", "show", "5o7GxyFrDJPQj5pQ0Lxh", "--projet", "demo"])
    assert result.exit_code == 2

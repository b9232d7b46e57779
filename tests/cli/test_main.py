"""The command `cab` itself: every subcommand can be loaded, and help loads none of them."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cab.cli import main


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
        "from cab.cli import main\n"
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

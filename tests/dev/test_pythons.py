"""Where another Python of this machine is."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from cab_dev.processes import pythons


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, on a machine without pyenv."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    return tmp_path


def program(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]), "utf-8")
    path.chmod(0o755)
    return path


def test_this_python_serves_where_it_is_of_the_version() -> None:
    assert pythons.find(".".join(platform.python_version_tuple()[:2])) == sys.executable


def test_one_of_the_path_or_of_pyenv_counts_once_it_has_said_its_version(
    programs: Path,
) -> None:
    program(programs / "python3.99", "echo no such version is selected >&2; exit 127")
    assert pythons.find("3.99") is None
    of_pyenv = program(programs / "none" / "versions" / "3.99.1" / "bin" / "python3.99", "echo 3.99")
    assert pythons.find("3.99") == str(of_pyenv)
    on_the_path = program(programs / "python3.99", "echo 3.99")
    assert pythons.find("3.99") == str(on_the_path)


def test_make_is_told_where_it_is_or_in_one_sentence_what_is_missing(
    programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = program(programs / "python3.99", "echo 3.99")
    assert (pythons.main("3.99"), capsys.readouterr().out) == (0, f"{found}\n")
    assert pythons.main("3.98") == 1
    assert capsys.readouterr().err.count("\n") == 1

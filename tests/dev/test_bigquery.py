"""The environment of the local BigQuery, and the dataset that it begins with."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cab.adapters.google_cloud.bigquery import audit_schema
from cab_dev.processes import pythons
from cab_dev.services import audit_dataset, bigquery


def prepared(root: Path) -> Path:
    """A checkout with requirements and nothing else."""
    (root / "requirements").mkdir()
    (root / "requirements" / "bigquery.txt").write_text("local-bigquery==0\n", encoding="utf-8")
    return root


def installed(root: Path) -> Path:
    """A checkout whose environment claims to be complete."""
    folder = prepared(root) / ".cab" / "venv-bigquery"
    folder.mkdir(parents=True)
    (folder / "installed").write_text(bigquery._fingerprint(root), encoding="ascii")
    return root


def test_without_python_3_13_there_is_one_sentence_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pythons, "find", lambda version: None)
    with pytest.raises(bigquery.NotInstallable, match=r"needs Python 3\.13") as reason:
        bigquery.install(prepared(tmp_path))
    assert "\n" not in str(reason.value)
    assert not bigquery.is_installed(tmp_path)


def test_a_complete_environment_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery, "find_python", lambda: pytest.fail("nothing is to be installed"))
    root = installed(tmp_path)
    assert bigquery.install(root) == root / ".cab" / "venv-bigquery"


def test_an_environment_of_other_requirements_does_not_count(tmp_path: Path) -> None:
    root = installed(tmp_path)
    (root / "requirements" / "bigquery.txt").write_text("local-bigquery==1\n", encoding="utf-8")
    assert not bigquery.is_installed(root)


def test_the_server_stays_on_loopback_and_in_the_checkout(tmp_path: Path) -> None:
    root = installed(tmp_path)
    server = bigquery.server(port=9350, grpc_port=9360, data_dir=tmp_path / "data", root=root)
    assert server.command[-9:] == (
        *("--host", "127.0.0.1", "--port", "9350", "--grpc-port", "9360"),
        *("--data-dir", str(tmp_path / "data"), "serve"),
    )
    assert server.url == "http://127.0.0.1:9350"
    assert server.ready_url.startswith(server.url)
    assert Path(server.environment["HOME"]).is_relative_to(root)


def test_the_server_is_not_offered_before_it_is_installed(tmp_path: Path) -> None:
    with pytest.raises(bigquery.NotInstallable, match=r"python -m cab_dev\.services\.bigquery install"):
        bigquery.server(port=1, grpc_port=2, data_dir=tmp_path, root=prepared(tmp_path))


def test_the_command_knows_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert bigquery.main([]) == 2
    assert "usage" in capsys.readouterr().err


class Maker:
    """Makes a dataset by writing where it is, as slowly as somebody waits; `fails` times it ends in the middle."""

    def __init__(self, fails: int = 0) -> None:
        self.made = 0
        self._fails = fails

    def __call__(self, folder: Path, project: str, dataset: str, rows: bigquery.Rows) -> None:
        folder.mkdir(parents=True)
        (folder / "half").touch()
        if self._fails:
            self._fails -= 1
            raise RuntimeError("killed")
        (folder / "whole").write_text(f"{project}.{dataset}", encoding="utf-8")
        self.made += 1


@pytest.fixture
def lay(tmp_path: Path) -> Callable[..., list[str]]:
    """Lays the dataset into a new folder; the names of what is in it then."""

    def laid(name: str, make: Maker, project: str = "p", rows: bigquery.Rows = "few") -> list[str]:
        shelf = tmp_path / "shelf"
        audit_dataset.lay(tmp_path / name, project=project, dataset="d", rows=rows, shelf=shelf, make=make)
        assert (tmp_path / name / "whole").read_text(encoding="utf-8") == f"{project}.d"
        return sorted(path.name for path in (tmp_path / name).iterdir())

    return laid


def test_an_audit_dataset_is_made_once_however_many_ask_at_the_same_time(lay: Callable[..., list[str]]) -> None:
    make = Maker()
    with ThreadPoolExecutor(8) as threads:
        laid = list(threads.map(lambda number: lay(f"data-{number}", make), range(8)))
    assert laid == [["half", "whole"]] * 8
    assert make.made == 1


def test_what_was_made_half_is_made_again(lay: Callable[..., list[str]]) -> None:
    make = Maker(fails=1)
    with pytest.raises(RuntimeError, match="killed"):
        lay("data", make)
    assert lay("data", make) == ["half", "whole"]


@pytest.mark.parametrize("changed", ["project", "rows", "a view", "a column", "the emulator", "how it is run"])
def test_another_audit_dataset_is_made_anew(
    lay: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str
) -> None:
    make = Maker()
    monkeypatch.setattr(bigquery, "_fingerprint", lambda root: "locked")
    lay("before", make)
    match changed:
        case "a view":
            sql = audit_schema.view_sql
            other = lambda name, **names: sql(name, **names) + ("-- x" if name == "reach" else "")  # noqa: E731
            monkeypatch.setattr(audit_schema, "view_sql", other)
        case "a column":
            monkeypatch.setattr(audit_schema, "columns", lambda: [{"name": "other"}])
        case "the emulator":
            monkeypatch.setattr(bigquery, "_fingerprint", lambda root: "locked anew")
        case "how it is run":
            monkeypatch.setattr(bigquery, "_PROGRAM", tmp_path / "program.py")
            (tmp_path / "program.py").write_text("other", encoding="utf-8")
    asked = {"project": "other" if changed == "project" else "p", "rows": "many" if changed == "rows" else "few"}
    lay("after", make, **asked)
    assert make.made == 2
    lay("again", make, **asked)
    assert make.made == 2


def test_a_folder_that_holds_data_is_not_written_over(lay: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows").touch()
    with pytest.raises(OSError, match="not empty"):
        lay("data", Maker())


def test_what_nobody_has_used_for_a_week_is_not_kept(lay: Callable[..., list[str]], tmp_path: Path) -> None:
    old, used = tmp_path / "shelf" / "old", tmp_path / "shelf" / "used"
    for folder in (old, used):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    lay("data", Maker())
    assert not old.exists()
    assert used.exists()

"""The environment of the local BigQuery."""

from __future__ import annotations

from pathlib import Path

import pytest

from cab_dev.services import bigquery


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
    monkeypatch.setattr(bigquery, "_is_wanted", lambda python: False)
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
    assert server.command[1:] == (
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

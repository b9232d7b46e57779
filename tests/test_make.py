"""The make targets that the README and `make help` offer."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from benchmarks.peers.__main__ import install_keycloak, is_had
from benchmarks.peers.installing import build_zitadel, install
from tests.mutants.modules import TESTS_OF

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = {name: needs.split() for name, needs in re.findall(r"^([a-z-]+):([^#\n]*)##", MAKEFILE, flags=re.MULTILINE)}


NOT_IN_CI = {"real"}
"""It fetches 180 MB of Keycloak from Maven Central, which CI must not depend on: somebody runs it before a release, and `bench-peers`
with the servers that CI leaves out."""


def test_ci_tries_every_target_that_is_offered() -> None:
    """A target that nobody runs on a fresh clone breaks unseen."""
    text = (ROOT / ".ci" / "run").read_text("utf-8")
    tried = set(re.findall(r"^ *(?:trying [a-z-]+ && |'|)make ([a-z-]+)", text, re.MULTILINE))
    tried |= {needed for name in tried for needed in TARGETS[name]}
    assert TARGETS.keys() - tried == NOT_IN_CI


def test_bench_peers_says_of_each_peer_what_it_lacks_and_leaves_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing: list[str] = []
    assert not any(is_had(get, missing) for get in (install, build_zitadel, install_keycloak))
    assert [words.partition(" needs ")[0] for words in missing] == ["oidc-provider", "ZITADEL's library", "Keycloak"]


def test_help_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in listed.splitlines()} == TARGETS.keys()


def test_every_phony_target_is_declared() -> None:
    """Else a file of that name would switch it off."""
    (declared,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert set(declared.split()) >= TARGETS.keys()


def test_clean_removes_what_the_commands_have_made_and_nothing_else(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in (".venv/bin", ".cab/dev", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "mine"):
        (tmp_path / folder).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"Makefile", "mine"}


def test_make_mutants_names_modules_and_tests_that_exist() -> None:
    """The modules were moved once, and `make mutants` stopped at the first."""
    missing = [module for module in TESTS_OF if not (ROOT / "shared" / "cab" / module).is_file()]
    missing += [name for tests in TESTS_OF.values() for name in tests if not (ROOT / name).is_file()]
    assert missing == []


def test_packages_are_installed_by_one_script() -> None:
    """Whatever pip is told elsewhere could resolve. The image has a line of its own, which tests/terraform holds to the lock."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    builds = [
        name for name in tracked if re.match(r"Makefile|cloudbuild|\.ci/|requirements/install|terraform/|shared/", name)
    ]
    places = {name for name in builds if re.search(r"\bpip\W+install\b", (ROOT / name).read_text("utf-8", "replace"))}
    assert places == {"requirements/install", "terraform/Dockerfile"}

"""The make targets that the README and `make help` offer."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.mutants.modules import TESTS_OF

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = {name: needs.split() for name, needs in re.findall(r"^([a-z-]+):([^#\n]*)##", MAKEFILE, flags=re.MULTILINE)}


NOT_IN_CI = {"real", "bench-peers", "desk"}
"""`real` fetches 180 MB of Keycloak from Maven Central, and `bench-peers` servers from npm and of Go modules, which CI must not depend on: somebody runs
them before a release. `desk` takes half an hour; the same with fewer decisions is in the suite."""


def test_ci_tries_every_target_that_is_offered() -> None:
    """A target that nobody runs on a fresh clone breaks unseen."""
    text = (ROOT / ".ci" / "run").read_text("utf-8")
    tried = set(re.findall(r"^ *(?:trying [a-z-]+ && |'|)make ([a-z-]+)", text, re.MULTILINE))
    tried |= {needed for name in tried for needed in TARGETS[name]}
    assert TARGETS.keys() - tried == NOT_IN_CI


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

"""The habits that people who join rely on: decisions are dated and listed, links lead somewhere, the license is named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DECISIONS = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")
INDEX = (ROOT / "docs" / "decisions" / "README.md").read_text("utf-8")
DOCUMENTS = sorted(
    path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md"))
)


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_a_title_a_date_and_a_status_and_stands_in_the_index(page: Path) -> None:
    title, _, dated, *_ = page.read_text("utf-8").splitlines()
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d), (accepted|replaced by .*|rejected)", dated)
    assert found is not None
    assert f"| {found[1]} | [{title.removeprefix('# ')}]({page.name}) | {found[2]} |" in INDEX.splitlines()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_link_into_the_repository_leads_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target


def test_the_license_is_in_the_package_too() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")


def test_the_change_log_tells_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert f"{version}," in headings


def test_the_release_has_its_tag_named() -> None:
    assert "`v0.1.0`" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_who_joins_finds_templates_hooks_and_how_often_dependencies_are_updated() -> None:
    for name in (
        ".github/CODEOWNERS.example",
        ".github/pull_request_template.md",
        ".editorconfig",
        "SECURITY.md",
        "LICENSE",
    ):
        assert (ROOT / name).is_file(), name
    assert len(list((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))) > 1
    assert "entry: make lint" in (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    told = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert "`requirements/compile`" in told
    assert "every month" in told


def test_the_types_of_everything_are_checked() -> None:
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    assert mypy["strict"] is True
    packages = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "shared").glob("*/__init__.py")}
    assert set(mypy["files"]) >= packages | {"functions", "tests", "benchmarks", "examples"}

"""The house: what docs/architecture.md says of folders, files and who builds what, held by looking at the code."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / "shared"
ROOMS = sorted(path for path in (SHARED / "cab" / "use_cases").rglob("__init__.py") if path.parent.name != "use_cases")
PACKAGES = ("cab", "cab_ops", "cab_dev", "gcp_emulators")
MOST_FILES = 12


@cache
def reached() -> set[str]:
    """Every module that some function imports, at once or when it builds its parts."""
    graph = grimp.build_graph("cab")
    found: set[str] = set()
    waiting = {module for module in graph.modules if re.match(r"cab\.(bootstrap|settings)\b", module)}
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= graph.find_modules_directly_imported_by(module) - found
    return found


def test_the_archive_holds_only_what_the_functions_reach(tmp_path: Path) -> None:
    packed = subprocess.run(
        [sys.executable, str(ROOT / "terraform" / "package"), str(ROOT / "examples" / "acme"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with zipfile.ZipFile(packed) as archive:
        (wheel,) = [name for name in archive.namelist() if name.endswith(".whl")]
        with zipfile.ZipFile(io.BytesIO(archive.read(wheel))) as runtime:
            code = {Path(name) for name in runtime.namelist() if name.endswith(".py")}
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in code}
    packages = {module.rpartition(".")[0] for module in modules}
    told_only = packages | {"cab.data"}  # `__init__` files, and files that are read, not imported
    assert {module for module in modules if module not in told_only} <= reached()
    assert set(modules) >= {module for module in reached() if module != "cab"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: str(path.parent.relative_to(SHARED / "cab" / "use_cases")))
def test_a_room_names_its_files_in_running_order(room: Path) -> None:
    told = ast.get_docstring(ast.parse(room.read_text("utf-8"))) or ""
    files = {path.stem for path in room.parent.glob("*.py")} - {"__init__"}
    rooms = {path.name for path in room.parent.iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"`(\w+)`", told)) >= files | rooms


FROM_FORMS = [
    path
    for room in ("edge", "exchange", "calls")
    for path in sorted((SHARED / "cab" / "use_cases" / room).rglob("*.py"))
]


@pytest.mark.parametrize("path", FROM_FORMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_nobody_looks_into_a_form_below_the_request(path: Path) -> None:
    if path.name != "request.py":
        assert not re.search(r"\bform\b(\[|\.get| in\b)|protocol\.forms", path.read_text("utf-8"))


@pytest.mark.parametrize("path", sorted((SHARED / "cab" / "bootstrap").glob("*.py")), ids=lambda path: path.stem)
def test_wiring_is_typed(path: Path) -> None:
    assert not re.search(r"\bAny\b", path.read_text("utf-8"))


def test_no_folder_is_a_drawer() -> None:
    folders = Counter(
        path.parent.relative_to(SHARED)
        for package in PACKAGES
        for path in (SHARED / package).rglob("*.py")
        if path.name != "__init__.py"
    )
    assert {str(folder): n for folder, n in folders.items() if n > MOST_FILES} == {}


def test_a_class_has_a_name_of_its_own() -> None:
    names = Counter(
        node.name
        for path in (SHARED / "cab").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name: n for name, n in names.items() if n > 1} == {}


def test_explain_decides_by_the_checks_of_the_exchange_and_has_none_of_its_own() -> None:
    decide = "cab.use_cases.exchange.decide"
    graph = grimp.build_graph("cab", "cab_ops")
    for teller in ("cab_ops.explain.exchange", "cab.use_cases.exchange.steps"):
        assert decide in graph.find_modules_directly_imported_by(teller)
    checks = {
        "check_tenant",
        "check_may_act",
        "check_against_catalog",
        "compare_with_task",
        "covered_by_any",
        "scopes_for",
    }
    for path in (SHARED / "cab_ops" / "explain").glob("*.py"):
        assert not checks & set(re.findall(r"\b\w+(?=\()", path.read_text("utf-8"))), path.name


def test_texts_about_a_judgement_are_made_by_explain_alone() -> None:
    tree = ast.parse((SHARED / "cab" / "use_cases" / "exchange" / "decide.py").read_text("utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]


DIALECT = re.compile(
    r"stands? twice|\bby turns\b|whoever comes by|\bcomes by an?\b|\b(can|could|cannot|to) be had\b|\btold apart\b|\btells? apart\b"
    r"|lose sight|la(y|id) aside|\btwins?\b|\*\*Mend\.|secret_ver\b|tokens of then",
    re.IGNORECASE,
)
# Fields of stored documents, and what a name was before.
KEPT_NAMES = {SHARED / "cab" / "stores" / "grants.py", ROOT / "docs" / "grants.md", ROOT / "CHANGELOG.md"}


def test_code_and_documents_speak_the_words_of_the_field() -> None:
    places = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    for folder in (SHARED, ROOT / "docs", ROOT / "functions", ROOT / "examples"):
        places += [path for path in folder.rglob("*") if path.suffix in (".py", ".md", ".html", ".yaml", ".sql")]
    found = {}
    for path in places:
        if path not in KEPT_NAMES and (said := DIALECT.search(path.read_text("utf-8"))):
            found[str(path.relative_to(ROOT))] = said[0]
    assert found == {}

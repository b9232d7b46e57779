"""The requirements files leave nothing to decide: whoever installs them, on whatever day, gets the same distributions."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.support.locks import Declared, gaps, installed, machines, read_input, read_lock
from tests.support.wheels import next_version, write_wheel

from cab_dev.emulators.testing import official_is_required

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Lock:
    """A requirements file: what it was made from, where it is installed (None: here), and the Pythons it serves."""

    name: str
    inputs: tuple[str, ...]
    environment: Path | None = None
    pythons: tuple[str, ...] = PYTHONS

    def pins(self) -> list[Requirement]:
        return read_lock((ROOT / "requirements" / f"{self.name}.txt").read_text("utf-8"))


PACKAGE, STACK, DEV = "pyproject.toml", "requirements/stack.in", "requirements/dev.in"
RUNTIME = Lock("runtime", (PACKAGE,))
LOCKS = [
    RUNTIME,
    Lock("stack", (PACKAGE, STACK)),
    Lock("dev", (PACKAGE, STACK, DEV)),
    Lock("terraform", ("requirements/terraform.in",), ROOT / ".cab" / "venv-terraform"),
    Lock("bigquery", ("requirements/bigquery.in",), ROOT / ".cab" / "venv-bigquery", ("3.13",)),
]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_what_any_pinned_distribution_needs_is_pinned_too(lock: Lock) -> None:
    if lock.environment is not None and not lock.environment.exists():
        reason = f"{lock.environment} is made by `make test`, where its Python is installed"
        pytest.fail(reason) if official_is_required(os.environ) else pytest.skip(reason)
    inputs = {file: read_input(ROOT / file) for file in lock.inputs}
    found = gaps(lock.pins(), inputs, installed(lock.environment), machines(lock.pythons))
    assert not found, "\n".join(found)


def test_every_lock_is_tested() -> None:
    assert {path.stem for path in (ROOT / "requirements").glob("*.txt")} == {lock.name for lock in LOCKS}


def test_a_resolver_keeps_to_the_runtime_lock_when_everything_has_a_newer_version(tmp_path: Path) -> None:
    """The cloud's buildpack resolves the file that it is given. Here by the pip of this Python, however old."""
    pins, declared = RUNTIME.pins(), installed()
    lines = [f"{pin} --hash={_publish(tmp_path, pin, declared[canonicalize_name(pin.name)])}" for pin in pins]
    (tmp_path / "requirements.txt").write_text("\n".join(lines), encoding="utf-8")
    chosen = _resolve(tmp_path)
    assert chosen == {(canonicalize_name(pin.name), str(pin.specifier)) for pin in pins}


def _publish(index: Path, pin: Requirement, declared: Declared) -> str:
    """Both the pinned version and the next, which nobody has seen yet. The hash is the pinned one's."""
    write_wheel(index, pin.name, next_version(declared.version), declared.requires)
    return write_wheel(index, pin.name, declared.version, declared.requires)


def _resolve(index: Path) -> set[tuple[str, str]]:
    report = index / "report.json"
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--no-index", "--find-links", str(index), "--report", str(report)]
    done = subprocess.run(
        [*command, "-r", str(index / "requirements.txt")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [item["metadata"] for item in json.loads(report.read_text("utf-8"))["install"]]
    return {(canonicalize_name(each["name"]), f"=={each['version']}") for each in found}


# --- pyproject.toml names what the package imports ---


def test_every_import_of_the_package_is_of_a_dependency_that_it_names() -> None:
    named = {canonicalize_name(requirement.name) for requirement in read_input(ROOT / PACKAGE)}
    owners = _owners()
    unnamed = {
        f"{path.relative_to(ROOT)} imports {module}"
        for folder in ("shared/cab", "functions")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for candidates in _imports(ast.parse(path.read_text("utf-8")))
        for module in [candidates[-1]]
        if not named & {owners.get(candidate) for candidate in candidates} and not _is_ours_or_pythons(module)
    }
    assert unnamed == set()


def _imports(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """For each import the modules that it may mean: `from a import b` is of `a.b` or of `a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)


def _owners() -> dict[str, str]:
    """Modules by their dotted name, and the distribution that brings each."""
    owners: dict[str, str] = {}
    for distribution in distributions():
        for file in distribution.files or ():
            parts = (*file.parts[:-1], file.name.split(".")[0])
            if file.suffix in {".py", ".so"}:
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                owners[module] = canonicalize_name(distribution.name)
    return owners


def _is_ours_or_pythons(module: str) -> bool:
    top = module.split(".", maxsplit=1)[0]
    return top in sys.stdlib_module_names or top in {"cab", "cab_dev"}


# --- the check itself finds what it is for ---

GOOGLE_AUTH = "google-auth==2.62.2"
BIGQUERY = "google-cloud-bigquery==3.47.0"
WORLD = {
    "google-cloud-bigquery": Declared("3.47.0", (Requirement("google-auth[pyopenssl]<3,>=2.14.1"),)),
    "google-auth": Declared(
        "2.62.2",
        (
            Requirement("pyasn1>=0.2"),
            Requirement("cryptography>=38; python_version < '3.13' and extra == 'pyopenssl'"),
            Requirement("pyu2f>=0.1; extra == 'reauth'"),
        ),
    ),
    "pyasn1": Declared("0.6.5", ()),
    "cryptography": Declared("50.0.2", ()),
}
OLDEST = "Python 3.11 on linux x86_64"  # the first machine that is looked at
CLOSED = [BIGQUERY, GOOGLE_AUTH, "google-auth[pyopenssl]==2.62.2", "pyasn1==0.6.5", "cryptography==50.0.2"]


def gaps_of(*pins: str, asked: str = "google-cloud-bigquery>=3") -> list[str]:
    return gaps(read_lock("\n".join(pins)), {"stack.in": [Requirement(asked)]}, WORLD, machines(("3.11", "3.13")))


def test_a_closed_lock_has_no_gap() -> None:
    assert gaps_of(*CLOSED) == []


@pytest.mark.parametrize(
    ("without", "gap"),
    [
        ("google-auth[pyopenssl]==2.62.2", "google-cloud-bigquery 3.47.0 needs google-auth[pyopenssl]<3,>=2.14.1"),
        ("pyasn1==0.6.5", "google-auth 2.62.2 needs pyasn1>=0.2"),
        ("cryptography==50.0.2", "google-auth 2.62.2 needs cryptography>=38"),
        (BIGQUERY, "stack.in needs google-cloud-bigquery>=3"),
    ],
)
def test_a_missing_line_is_a_gap(without: str, gap: str) -> None:
    found = gaps_of(*(line for line in CLOSED if line != without))
    assert [each for each in found if "not pinned" in each] == [f"{gap}, which is not pinned. ({OLDEST})"]


def test_a_line_must_hold_wherever_it_is_needed() -> None:
    found = gaps_of(*CLOSED[:-1], "cryptography==50.0.2; python_version >= '3.13'")
    assert f"google-auth 2.62.2 needs cryptography>=38, which is not pinned. ({OLDEST})" in found


def test_a_version_that_is_not_allowed_is_a_gap() -> None:
    assert gaps_of(*CLOSED, asked="google-cloud-bigquery>=4") == [
        f"stack.in needs google-cloud-bigquery>=4, but google-cloud-bigquery==3.47.0 is pinned. ({OLDEST})"
    ]


def test_two_versions_at_once_are_a_gap() -> None:
    found = gaps_of(*CLOSED, "pyasn1==0.6.4")
    assert f"pyasn1 is pinned as ==0.6.4 and as ==0.6.5. ({OLDEST})" in found


def test_a_pin_that_nothing_needs_is_a_gap() -> None:
    assert gaps_of(*CLOSED, "python-dotenv==1.2.4") == ["Nothing needs python-dotenv."]


def test_a_pin_for_other_platforms_is_left_alone() -> None:
    assert gaps_of(*CLOSED, "colorama==0.4.6; sys_platform == 'win32'") == []


def test_what_is_not_installed_cannot_be_judged() -> None:
    assert gaps_of(*CLOSED[:3], "pyasn1==0.6.4", CLOSED[4]) == [
        f"pyasn1==0.6.4 is not installed here, so what it needs is not known. ({OLDEST})"
    ]

"""The requirements files leave nothing to decide: whoever installs them, on whatever day, gets the same distributions."""

from __future__ import annotations

import ast
import json
import os
import runpy
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.support.locks import Declared, entries, gaps, installed, machines, read_input, read_lock
from tests.support.wheels import next_version, write_wheel

from gcp_emulators.testing import official_is_required


@dataclass(frozen=True)
class Lock:
    """A requirements file, the files it was made from, and the Pythons it serves."""

    name: str
    inputs: tuple[str, ...]
    pythons: tuple[str, ...]

    def text(self) -> str:
        return (FOLDER / f"{self.name}.txt").read_text("utf-8")

    def pins(self) -> list[Requirement]:
        return read_lock(self.text())


ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
COMPILE = runpy.run_path(str(FOLDER / "compile"))  # the locks, what each is made from, and the machines they are for
LOCKS = {name: Lock(name, inputs, pythons) for name, inputs, _, pythons in COMPILE["LOCKS"]}
INSTALLED = {name: ROOT / ".cab" / f"venv-{name}" for name in ("terraform", "bigquery", "frameworks")}  # else here


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_what_any_pinned_distribution_needs_is_pinned_too(lock: Lock) -> None:
    environment = INSTALLED.get(lock.name)
    if environment is not None and not environment.exists():
        reason = f"{environment} is made by `make test`, where its Python is installed"
        pytest.fail(reason) if official_is_required(os.environ) else pytest.skip(reason)
    inputs = {file: read_input(FOLDER / file) for file in lock.inputs}
    found = gaps(lock.pins(), inputs, installed(environment), machines(lock.pythons, COMPILE["PLATFORMS"]))
    assert not found, "\n".join(found)


def test_every_lock_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == LOCKS.keys()


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_every_pin_has_hashes(lock: Lock) -> None:
    assert [entry for entry in entries(lock.text()) if "--hash=sha256:" not in entry] == []


def test_what_is_deployed_is_what_is_tested() -> None:
    """Three locks are installed by the cloud alone, but each of their lines, hashes included, also stands where we install."""
    runtime, call_tool, traces, stack, dev = (
        set(entries(LOCKS[name].text())) for name in ("runtime", "call_tool", "traces", "stack", "dev")
    )
    assert runtime < call_tool < traces < stack < dev


def test_a_resolver_keeps_to_the_runtime_lock_when_everything_has_a_newer_version(tmp_path: Path) -> None:
    """The cloud's buildpack resolves the file that it is given. Here by the pip of this Python, however old."""
    pins, declared = LOCKS["runtime"].pins(), installed()
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


# --- installing a lock ---


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Python's bundled pip and nothing else. Tests copy it: making one takes seconds."""
    environment = tmp_path_factory.mktemp("fresh") / "environment"
    venv.create(environment, with_pip=True)
    return environment


@pytest.fixture
def environment(fresh: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fresh, tmp_path / "environment", symlinks=True))


@pytest.mark.parametrize("complete", [True, False], ids=["closed", "open"])
def test_installing_a_lock_takes_what_is_pinned_and_judges_the_result(
    environment: Path, tmp_path: Path, *, complete: bool
) -> None:
    """`needing` 1.0 needs `needed`; both have newer versions, which no resolver gets the chance to take."""
    index = tmp_path / "index"
    index.mkdir()
    packages = {"needing": (Requirement("needed"),), "needed": ()}
    pins = {
        name: _publish(index, Requirement(f"{name}==1.0"), Declared("1.0", needs)) for name, needs in packages.items()
    }
    lines = [f"{name}==1.0 --hash={pinned}" for name, pinned in pins.items() if complete or name == "needing"]
    (tmp_path / "lock.txt").write_text("\n".join(lines), encoding="utf-8")
    done = _install(environment, tmp_path / "lock.txt", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(index))
    found = {name: declared.version for name, declared in installed(environment).items() if name in packages}
    assert found == {name: "1.0" for name in packages if complete or name == "needing"}
    assert (done.returncode == 0) is complete
    assert ("needing 1.0 requires needed, which is not installed." in done.stderr) is not complete


@pytest.mark.parametrize(
    "settings", [{"PIP_USER": "1"}, {"PIP_CONSTRAINT": "elsewhere.txt"}, {"PIP_REQUIRE_HASHES": "1"}]
)
def test_somebodys_pip_settings_do_not_keep_a_lock_from_being_installed(
    environment: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    hashed = write_wheel(tmp_path, "needed", "1.0", ())
    (tmp_path / "lock.txt").write_text(f"needed==1.0 --hash={hashed}", encoding="utf-8")
    done = _install(environment, tmp_path / "lock.txt", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path), **settings)
    assert (done.returncode, done.stderr) == (0, "")


def _install(environment: Path, lock: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(FOLDER / "install"), str(environment / "bin" / "python"), str(lock)]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)


# --- pyproject.toml names what the package imports ---


def test_every_import_of_the_package_is_of_a_dependency_that_it_names() -> None:
    common, call_tool, traces = (
        {canonicalize_name(requirement.name) for requirement in read_input(path)}
        for path in (ROOT / "pyproject.toml", FOLDER / "call_tool.in", FOLDER / "traces.in")
    )
    shared = ROOT / "shared" / "cab"  # what no other function imports
    of_call_tool = {shared / "transport" / "calls" / "mcp.py", *(shared / "adapters" / "mcp").glob("*.py")}
    more = dict.fromkeys(of_call_tool, call_tool) | {shared / "adapters" / "open_telemetry.py": traces}
    owners = _owners()
    unnamed = {
        f"{path.relative_to(ROOT)} imports {module}"
        for folder in ("shared/cab", "functions")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for candidates in _imports(ast.parse(path.read_text("utf-8")))
        for module in [candidates[-1]]
        if not (common | more.get(path, set())) & {owners.get(candidate) for candidate in candidates}
        and not _is_ours_or_pythons(module)
    }
    assert unnamed == set()


def test_every_import_of_the_tools_is_of_a_dependency_that_they_or_the_runtime_name() -> None:
    projects = (ROOT / "pyproject.toml", ROOT / "shared" / "cab_ops" / "pyproject.toml")
    runtime, own = ({canonicalize_name(it.name) for it in read_input(path)} for path in projects)
    owners = _owners()
    imported = {
        next((owners[it] for it in candidates if it in owners), candidates[-1])
        for path in sorted((ROOT / "shared" / "cab_ops").rglob("*.py"))
        for candidates in _imports(ast.parse(path.read_text("utf-8")))
        if not _is_ours_or_pythons(candidates[-1])
    }
    assert imported - {"cab-tools"} <= runtime | own
    assert own - {"cab"} <= imported, "named, and imported by nothing"


def test_no_function_but_call_tool_imports_what_only_call_tool_carries() -> None:
    graph = grimp.build_graph("cab")
    importers = graph.find_modules_that_directly_import("cab.transport.calls.mcp")
    assert importers == {"cab.bootstrap.call_tool"}


def test_nothing_imports_the_recorder_of_traces_but_what_turns_them_on() -> None:
    importers = grimp.build_graph("cab").find_modules_that_directly_import("cab.adapters.open_telemetry")
    assert importers == {"cab.bootstrap.shared"}


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
    return top in sys.stdlib_module_names or top in {"cab", "cab_dev", "cab_ops"}


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
MACHINES = machines(("3.11", "3.14"), ("x86_64-manylinux_2_28", "aarch64-apple-darwin"))
OLDEST = "Python 3.11 on linux x86_64"  # the first that is looked at
CLOSED = [BIGQUERY, GOOGLE_AUTH, "google-auth[pyopenssl]==2.62.2", "pyasn1==0.6.5", "cryptography==50.0.2"]


def gaps_of(*pins: str, asked: str = "google-cloud-bigquery>=3") -> list[str]:
    return gaps(read_lock("\n".join(pins)), {"stack.in": [Requirement(asked)]}, WORLD, MACHINES)


def test_a_closed_lock_has_no_gap() -> None:
    assert gaps_of(*CLOSED) == []


@pytest.mark.parametrize(
    ("without", "gap"),
    [
        (GOOGLE_AUTH, "google-cloud-bigquery 3.47.0 needs google-auth<3,>=2.14.1"),
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


@pytest.mark.parametrize("pin", ["python-dotenv==1.2.4", "google-auth[reauth]==2.62.2"])
def test_a_pin_that_nothing_needs_is_a_gap(pin: str) -> None:
    assert gaps_of(*CLOSED, pin) == [f"Nothing needs {pin}."]


def test_a_pin_for_other_platforms_is_left_alone() -> None:
    assert gaps_of(*CLOSED, "colorama==0.4.6; sys_platform == 'win32'") == []


def test_what_is_not_installed_cannot_be_judged() -> None:
    assert gaps_of(*CLOSED[:3], "pyasn1==0.6.4", CLOSED[4]) == [
        f"pyasn1==0.6.4 is not installed here, so what it needs is not known. ({OLDEST})"
    ]

"""The distributions `cab`, the runtime, and `cab-tools`, the command: what each wheel holds and needs, and that the command runs where only the
wheels are installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.support.locks import read_input, read_lock

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONWARNINGS"] = (
        "ignore::FutureWarning"  # Google's libraries say there when this Python nears its end
    )
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


TOOLS = Path("shared") / "cab_ops"


def build(project: Path, into: Path) -> Path:
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", into, cwd=project)
    assert built.returncode == 0, built.stderr
    (path,) = into.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT / TOOLS, tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheels and the packages that they name, and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/*/site-packages")
    # Path files inside the folder that is added here are not read, and so the checkout is not found through it.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--isolated", "--python", folder / "bin" / "python")
    installed = run(*pip, "install", "--no-index", "--no-deps", "--ignore-installed", wheel, tools, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return folder


def test_the_runtime_holds_no_tools_and_neither_holds_the_local_stack(wheel: Path, tools: Path) -> None:
    assert (tops(wheel), tops(tools)) == ({"cab"}, {"cab_ops"})


def tops(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as packed:
        found = {name.split("/")[0] for name in packed.namelist()}
    return {top for top in found if not top.endswith(".dist-info")}


def test_each_wheel_holds_every_file_of_its_package(wheel: Path, tools: Path) -> None:
    for path, name in ((wheel, "cab"), (tools, "cab_ops")):
        tracked = run("git", "ls-files", f"shared/{name}", cwd=ROOT).stdout.split()
        of_the_project = {f"shared/cab_ops/{left_out}" for left_out in ("pyproject.toml", "LICENSE")}
        with zipfile.ZipFile(path) as packed:
            held = {f"shared/{it}" for it in packed.namelist() if it.startswith(f"{name}/")}
        assert set(tracked) - of_the_project <= held


def test_each_wheel_names_what_its_package_needs(wheel: Path, tools: Path) -> None:
    for path, project in ((wheel, ROOT), (tools, ROOT / TOOLS)):
        with zipfile.ZipFile(path) as packed:
            (metadata,) = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
            stated = Parser().parsestr(packed.read(metadata).decode()).get_all("Requires-Dist")
        assert set(map(Requirement, stated or ())) == set(read_input(project / "pyproject.toml"))


def test_the_tools_are_of_the_same_release_as_the_runtime_that_they_need() -> None:
    runtime, tools = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"] for folder in ("", TOOLS)
    )
    assert tools["version"] == runtime["version"]
    assert f"cab=={runtime['version']}" in tools["dependencies"]
    # What both name, they name alike; and the lock of the runtime pins whatever the tools need.
    pinned = {
        canonicalize_name(pin.name) for pin in read_lock((ROOT / "requirements" / "runtime.txt").read_text("utf-8"))
    }
    wanted = {canonicalize_name(it.name): it for it in read_input(ROOT / TOOLS / "pyproject.toml") if it.name != "cab"}
    assert wanted.keys() <= pinned
    named = {canonicalize_name(it.name): it for it in read_input(ROOT / "pyproject.toml")}
    assert {name: it for name, it in wanted.items() if name in named} == {
        name: it for name, it in named.items() if name in wanted
    }


def test_the_same_tree_gives_the_same_wheels_byte_for_byte(wheel: Path, tools: Path, tmp_path: Path) -> None:
    """From a copy, whose files are younger and may be read by others than those here. What lies about in it stays out."""
    copy = tmp_path / "copy"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for name in ("cab", "cab_ops"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "shared" / name, copy / "shared" / name, copy_function=shutil.copyfile, ignore=left_out)
        for stray in (".env", "key.pem", "notes.py~"):
            (copy / "shared" / name / stray).write_text("left lying about", encoding="utf-8")
    assert build(copy, tmp_path / "one").read_bytes() == wheel.read_bytes()
    assert build(copy / TOOLS, tmp_path / "other").read_bytes() == tools.read_bytes()


@pytest.mark.parametrize("lock", ["runtime", "call_tool"])
def test_the_bill_of_materials_names_every_package_of_the_lock_with_its_hashes(lock: str) -> None:
    command = (sys.executable, ROOT / "requirements" / "sbom", f"requirements/{lock}.txt", "cab", "1.2.3")
    first, second = (run(*command, cwd=ROOT) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    bill = json.loads(first.stdout)
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==([^ ;\\]+)", text, flags=re.MULTILINE))
    assert {it["name"]: it["version"] for it in bill["components"]} == {
        canonicalize_name(name): version.strip() for name, version in pinned.items()
    }
    assert sum(len(it["properties"]) for it in bill["components"]) == text.count("--hash=sha256:")
    assert bill["dependencies"] == [
        {"ref": "pkg:pypi/cab@1.2.3", "dependsOn": [it["purl"] for it in bill["components"]]}
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("config", "validate", ROOT / "examples" / "acme"),
        ("openapi",),
        *((command, "--help") for command in ("dev", "explain", "audit", "grants", "keys")),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_installed_cab_runs(elsewhere: Path, arguments: tuple[str | Path, ...]) -> None:
    done = run(elsewhere / "bin" / "cab", *arguments, cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_an_installed_cab_says_that_the_local_stack_needs_a_checkout(elsewhere: Path) -> None:
    done = run(elsewhere / "bin" / "cab", "dev", "up", cwd=elsewhere)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: `cab dev` runs from a checkout of the repository")
    assert "Traceback" not in done.stderr

"""The Terraform module: formatted, valid, and its own tests pass. Without a provider registry a schema-only stand-in serves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from tests.terraform.conftest import APPLIED, ROOT, ModuleRun, terraform

from cab_dev.services.gateway import public_routes

ACME_SERVICES = ("IDP", "CRM", "TRACKER", "WAREHOUSE")


def test_it_is_valid(module: Path) -> None:
    assert terraform(module, "validate").returncode == 0


@pytest.mark.timeout(900)  # it computes for half a minute, on a machine that others use too
def test_its_own_tests_pass(module: Path, tested: ModuleRun) -> None:
    assert tested.status == 0
    others = sorted(path.name for path in (module / "tests").glob("*.tftest.hcl") if path.name != APPLIED)
    assert len(others) >= 2
    done = terraform(module, "test", *(f"-filter=tests/{name}" for name in others))
    assert done.returncode == 0
    assert "0 failed" in done.stdout


def test_it_is_formatted(module: Path) -> None:
    assert terraform(module, "fmt", "-check", "-recursive").returncode == 0


def package(folder: Path, *options: str) -> Path:
    script, config = str(ROOT / "terraform" / "package"), str(ROOT / "examples" / "acme")
    command = [sys.executable, script, *options, config, str(folder)]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the archives."""
    return package(tmp_path_factory.mktemp("packed"))


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder


def test_the_same_tree_gives_the_same_archives(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # as build farms and Nix set it, each another
    again = package(tmp_path)
    assert {path.name: path.read_bytes() for path in again.parent.iterdir()} == {
        path.name: path.read_bytes() for path in packed.parent.iterdir()
    }
    assert [path.name.removeprefix(packed.stem) for path in sorted(packed.parent.iterdir())] == [
        ".call_tool.zip",
        ".image.zip",
        ".zip",
    ]


def test_call_tool_has_an_archive_with_its_own_requirements_and_the_same_source(packed: Path) -> None:
    with zipfile.ZipFile(packed) as one, zipfile.ZipFile(packed.with_suffix(".call_tool.zip")) as other:
        differing = {name for name in one.namelist() if one.read(name) != other.read(name)}
        assert (one.namelist(), differing) == (other.namelist(), {"requirements.txt"})
        assert b"\nmcp==" in other.read("requirements.txt")
        assert b"\nmcp==" not in one.read("requirements.txt")


def test_made_for_traces_every_archive_carries_what_sends_spans_and_else_none_does(
    packed: Path, tmp_path: Path
) -> None:
    exporter = b"\nopentelemetry-exporter-otlp-proto-http=="
    for first, expected in ((packed, False), (package(tmp_path, "--traces"), True)):
        for which in ("", ".call_tool", ".image"):
            with zipfile.ZipFile(first.with_suffix(f"{which}.zip")) as archive:
                assert (exporter in archive.read("requirements.txt")) is expected


def test_the_archive_holds_the_runtime_as_a_wheel_and_no_tools(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        (wheel,) = [name for name in names if name.endswith(".whl")]
        last = archive.read("requirements.txt").decode().splitlines()[-1]
        assert last == f"./{wheel} --hash=sha256:{hashlib.sha256(archive.read(wheel)).hexdigest()}"
    assert sorted(name for name in names if name.endswith(".py")) == sorted(
        f"functions/{path.name}/main.py" for path in (ROOT / "functions").iterdir()
    )


def test_the_platform_compiles_the_runtime_once_and_no_cold_start_does_again(packed: Path, tmp_path: Path) -> None:
    """What Google's Python buildpack does: it installs without bytecode, compiles so that times do not matter, and gives every file another
    time. As source the runtime would be compiled with times, and so for each instance anew: that is shown too."""
    source = unpacked(packed, tmp_path / "source")
    (tmp_path / "ours.txt").write_text((source / "requirements.txt").read_text("utf-8").splitlines()[-1])
    install = ["--no-deps", "--no-compile", "--no-index", "--require-hashes", "--target", str(tmp_path / "packages")]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *install, "-r", str(tmp_path / "ours.txt")],
        cwd=source,
        check=True,
    )
    shutil.copytree(tmp_path / "packages", tmp_path / "as_source")
    for folder, mode in (("packages", "unchecked-hash"), ("as_source", "timestamp")):
        compiling = [
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            mode,
            str(tmp_path / folder / "cab"),
        ]
        subprocess.run(compiling, check=True)
        for path in (tmp_path / folder).rglob("*"):
            os.utime(path, (315532801, 315532801))
    assert compiled_at_start(tmp_path / "packages") == 0
    assert compiled_at_start(tmp_path / "as_source") > 10


def compiled_at_start(packages: Path) -> int:
    """How many modules of ours Python compiles when it imports this one. `-v` says of each where its code came from."""
    command = [sys.executable, "-v", "-B", "-c", "import cab.domain.configured.deployment"]
    environment = os.environ | {"PYTHONPATH": str(packages)}
    said = subprocess.run(command, cwd=packages, env=environment, capture_output=True, text=True, check=True).stderr
    ours = re.findall(rf"code object from '?{re.escape(str(packages))}/cab/([^'\n]*)", said)
    assert len(ours) > 10
    return sum(name.endswith(".py") for name in ours)


def test_the_origin_routes_every_public_path_of_the_local_gateway() -> None:
    """One table of paths in the cloud, one on this machine: they must say the same."""
    text = (ROOT / "terraform" / "modules" / "origin" / "main.tf").read_text("utf-8")
    table = text[text.index("paths = {") : text.index("resource ")]
    in_the_cloud = {
        (name, path.removesuffix("/*"))
        for name, paths in re.findall(r"^    (\w+)\s+= \[(.*)\]$", table, flags=re.MULTILINE)
        for path in re.findall(r'"(/[^"]*)"', paths)
        if (ROOT / "functions" / name / "main.py").is_file()
    }
    functions = {path.name: path.name for path in (ROOT / "functions").iterdir()}
    assert {(route.origin, route.path.removesuffix("/*")) for route in public_routes(functions)} == in_the_cloud


async def test_an_image_of_the_archive_serves_a_function_by_the_framework_s_own_variables(
    packed: Path, tmp_path: Path
) -> None:
    """As terraform/Dockerfile says, without Docker: what it copies, its variables and its command, told by FUNCTION_TARGET and
    FUNCTION_SOURCE which function it is. The command `cab` is there too, for jobs."""
    copied, variables, command = recipe()
    folder, source, packages = (
        unpacked(packed.with_suffix(".image.zip"), tmp_path / "unpacked"),
        tmp_path / "workspace",
        tmp_path / "packages",
    )
    assert {*copied, "wheels", "requirements.txt", "Dockerfile"} == {path.name for path in folder.iterdir()}
    for name in copied:
        shutil.copytree(folder / name, source / name)
    # What is not ours is in this environment.
    ours = [line for line in (folder / "requirements.txt").read_text("utf-8").splitlines() if line.startswith("./")]
    assert len(ours) == 2
    (tmp_path / "ours.txt").write_text("\n".join(ours))
    install = [
        "--no-deps",
        "--no-index",
        "--require-hashes",
        "--target",
        str(packages),
        "-r",
        str(tmp_path / "ours.txt"),
    ]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *install], cwd=folder, check=True)
    told = subprocess.run(
        [sys.executable, str(packages / "bin" / "cab"), "--version"],
        env={"PYTHONPATH": str(packages), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.startswith("cab, version ")
    port = free_port()
    origins = {f"ACME_{name}_ORIGIN": f"http://127.0.0.1:{n}" for n, name in enumerate(ACME_SERVICES, 1)}
    environment = {
        **origins,
        **{name: value.replace("/packages", str(packages)) for name, value in variables.items()},
        "CAB_ORIGIN": f"http://127.0.0.1:{port}",
        "CAB_CONFIG_DIR": "config",
        "GOOGLE_CLOUD_PROJECT": "p",
        "FIRESTORE_EMULATOR_HOST": "127.0.0.1:1",
        "FUNCTION_TARGET": "publish_metadata",
        "FUNCTION_SOURCE": "functions/publish_metadata/main.py",
        "PORT": str(port),
    }
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, *command[1:]], cwd=source, env=environment, stdout=log, stderr=log)
    try:
        document = await discovery(port, server)
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert document["issuer"] == f"http://127.0.0.1:{port}/oauth2"


def recipe() -> tuple[list[str], dict[str, str], list[str]]:
    """Of the image that is kept: the folders it copies from where it is built, its variables, its command."""
    _, _, last = (ROOT / "terraform" / "Dockerfile").read_text("utf-8").rpartition("\nFROM ")
    copied = re.findall(r"^COPY (\w+) \1$", last, flags=re.MULTILINE)
    (line,) = re.findall(r"^ENV (.*)$", last, flags=re.MULTILINE)
    (command,) = re.findall(r"^CMD (.*)$", last, flags=re.MULTILINE)
    assert command.startswith('["python"')
    assert re.search(r"^USER [1-9]\d*:", last, flags=re.MULTILINE), "it runs as nobody in particular"
    words: list[str] = json.loads(command)
    return copied, dict(word.split("=", 1) for word in line.split()), words


def test_the_image_installs_nothing_that_the_lock_does_not_pin() -> None:
    text = (ROOT / "terraform" / "Dockerfile").read_text("utf-8")
    (install,) = re.findall(r"^RUN pip install (.*)$", text, flags=re.MULTILINE)
    assert {"--require-hashes", "--no-deps"} <= set(install.split())
    assert install.endswith("-r requirements.txt")
    # Compiled once, by no time; and no other line runs anything that could come from elsewhere.
    assert re.findall(r"^RUN (?!pip)(.*)$", text, flags=re.MULTILINE) == [
        "python -m compileall -q --invalidation-mode unchecked-hash /packages"
    ]
    assert "ADD " not in text
    assert re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE) == ["${PYTHON}", "${PYTHON}"]
    assert re.search(r"^ARG PYTHON=python:3\.\d+-slim$", text, flags=re.MULTILINE)
    module = (ROOT / "terraform" / "modules" / "function" / "main.tf").read_text("utf-8")
    assert "FUNCTION_TARGET = var.name" in module
    assert 'FUNCTION_SOURCE = "functions/${var.name}/main.py"' in module


def test_one_python_is_deployed_and_tests_run_functions_on_it() -> None:
    places = {
        "terraform/modules/function/main.tf": r'runtime += "python3(\d+)"',
        "terraform/Dockerfile": r"python:3\.(\d+)-slim",
        "cloudbuild.yaml": r"python:3\.(\d+)-slim",
        "Makefile": r"cab_dev\.processes\.pythons 3\.(\d+)",
    }
    found = {place: set(re.findall(written, (ROOT / place).read_text("utf-8"))) for place, written in places.items()}
    assert found == {place: {"13"} for place in places}


async def discovery(port: int, server: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    async with aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/.well-known/oauth-authorization-server/oauth2") as answer:
                    assert answer.status == 200
                    return dict(await answer.json())
            except aiohttp.ClientConnectorError:
                assert server.poll() is None, "the function did not start"
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- cloudbuild.yaml ---

GCLOUD = """#!/usr/bin/env python3
import shutil, sys
from pathlib import Path
*sources, target = [Path(it.replace("gs://", "buckets/")) for it in sys.argv[3:] if not it.startswith("--")]
for it in sources:
    folder = target if sys.argv[-1].endswith("/") else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(it, target / it.name if folder == target else target)
"""
# Of a release that `init` takes unless the lock names one, as Terraform does; a plan goes with the lock that it was made under.
TERRAFORM = """#!/bin/sh
case $1 in
  init) [ -f .terraform.lock.hcl ] || echo "$RELEASED" > .terraform.lock.hcl ;;
  plan) cp .terraform.lock.hcl saved.plan ;;
  apply) cmp -s .terraform.lock.hcl saved.plan && echo "applied as planned with $(cat saved.plan)" ;;
esac
"""


def build(checkout: Path, programs: Path, action: str, released: str) -> str:
    """What the steps after packing say, in a fresh checkout, as Cloud Build runs them. Fails as they fail."""
    values = {
        "_ACTION": action,
        "_STATE_BUCKET": "state",
        "_SOURCE_BUCKET": "source",
        "COMMIT_SHA": "c1",
        "_TFVARS": "x",
    }
    steps = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text("utf-8"))["steps"]
    (checkout / "terraform").mkdir(parents=True)
    (checkout / "buckets").symlink_to(programs / "buckets")
    (checkout / ".build-path").write_text("cab-1.zip")
    for name in ("cab-1.zip", "cab-1.call_tool.zip"):
        (checkout / name).touch()
    said = ""
    for step in steps[[it["id"] for it in steps].index("upload") :]:
        script = re.sub(r"\$(_[A-Z_]+|[A-Z_]+)", lambda name: values[name[1]], step["args"][-1])
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "RELEASED": released}
        command = [step["entrypoint"], *step["args"][:-1], script]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (step["id"], done.stdout + done.stderr)
        said += done.stdout
    return said


def test_the_pipeline_applies_a_plan_with_the_providers_that_made_it_whatever_was_released_since(
    tmp_path: Path,
) -> None:
    programs = tmp_path / "programs"
    (programs / "buckets").mkdir(parents=True)
    for name, text in (("gcloud", GCLOUD), ("terraform", TERRAFORM)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    assert "applied" not in build(tmp_path / "one", programs, "plan", "7.45.0")
    assert build(tmp_path / "other", programs, "apply", "7.46.0") == "applied as planned with 7.45.0\n"


def test_the_pipeline_plans_and_applies_with_one_terraform() -> None:
    """A plan of another version is refused, of another patch too."""
    images = set(re.findall(r"hashicorp/terraform:(\S+)", (ROOT / "cloudbuild.yaml").read_text("utf-8")))
    assert [bool(re.fullmatch(r"\d+\.\d+\.\d+", it)) for it in images] == [True]

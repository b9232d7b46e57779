"""The Terraform module: formatted, valid, and its own tests pass. Without a provider registry a schema-only stand-in serves."""

from __future__ import annotations

import asyncio
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
from tests.terraform.conftest import APPLIED, ROOT, ModuleRun, terraform

from cab_dev.services.gateway import public_routes

ACME_SERVICES = ("IDP", "CRM", "TRACKER", "WAREHOUSE")


def test_it_is_valid(module: Path) -> None:
    assert terraform(module, "validate").returncode == 0


def test_its_own_tests_pass(module: Path, tested: ModuleRun) -> None:
    assert tested.status == 0
    others = sorted(path.name for path in (module / "tests").glob("*.tftest.hcl") if path.name != APPLIED)
    assert len(others) >= 2
    done = terraform(module, "test", *(f"-filter=tests/{name}" for name in others))
    assert done.returncode == 0
    assert "0 failed" in done.stdout


def test_it_is_formatted(module: Path) -> None:
    assert terraform(module, "fmt", "-check", "-recursive").returncode == 0


def test_every_alert_has_its_runbook() -> None:
    text = (ROOT / "terraform" / "alerts.tf").read_text("utf-8")
    names = re.findall(r"^    ([a-z][a-z-]+)\s+= \{$", text, flags=re.MULTILINE)
    assert len(names) >= 5
    for name in names:
        assert (ROOT / "docs" / "runbooks" / f"{name}.md").is_file(), name


def test_the_same_tree_gives_the_same_archive(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "terraform" / "package"), str(ROOT / "examples" / "acme")]
    first, second = (
        subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("a", "b")
    )
    assert Path(first).name == Path(second).name
    assert Path(first).read_bytes() == Path(second).read_bytes()


def test_call_tool_has_an_archive_with_its_own_requirements_and_the_same_source(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "terraform" / "package"), str(ROOT / "examples" / "acme"), str(tmp_path)]
    common = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    with zipfile.ZipFile(common) as one, zipfile.ZipFile(common.with_suffix(".call_tool.zip")) as other:
        differing = {name for name in one.namelist() if one.read(name) != other.read(name)}
        assert (one.namelist(), differing) == (other.namelist(), {"requirements.txt"})
        assert b"\nmcp==" in other.read("requirements.txt")
        assert b"\nmcp==" not in one.read("requirements.txt")


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


async def test_an_image_of_the_archive_serves_a_function_by_the_framework_s_own_variables(tmp_path: Path) -> None:
    """As terraform/Dockerfile says, without Docker: what it copies, its variables and its command, told by FUNCTION_TARGET and
    FUNCTION_SOURCE which function it is."""
    copied, variables, command = recipe()
    packed = subprocess.run(
        [sys.executable, str(ROOT / "terraform" / "package"), str(ROOT / "examples" / "acme"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    unpacked, source = tmp_path / "unpacked", tmp_path / "workspace"
    with zipfile.ZipFile(packed.replace(".zip", ".call_tool.zip")) as archive:
        archive.extractall(unpacked)
    assert {*copied, "requirements.txt"} == {path.name for path in unpacked.iterdir()}
    for name in copied:
        shutil.copytree(unpacked / name, source / name)
    port = free_port()
    origins = {f"ACME_{name}_ORIGIN": f"http://127.0.0.1:{n}" for n, name in enumerate(ACME_SERVICES, 1)}
    environment = {
        **origins,
        **{name: value.replace("/workspace", str(source)) for name, value in variables.items()},
        "PATH": os.environ["PATH"],
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
    module = (ROOT / "terraform" / "modules" / "function" / "main.tf").read_text("utf-8")
    assert "FUNCTION_TARGET = var.name" in module
    assert 'FUNCTION_SOURCE = "functions/${var.name}/main.py"' in module


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

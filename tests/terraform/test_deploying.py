"""docs/deploying.md, done as it says, as far as that needs no cloud: its commands, its example, its tables."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import certifi
import pytest
from benchmarks.capacity import Made, first_project, options
from tests.adapters.http.authorities import Authority
from tests.cli.test_cli_docs import commands
from tests.terraform.conftest import ROOT, ModuleRun, terraform
from tests.terraform.rights import State, resources

from cab.adapters.configuration.folder import YAML_FILES
from cab.adapters.configuration.loader import FolderConfiguration
from cab_ops.cli import main
from cab_ops.doctor.expected import configured_secrets

PAGE = (ROOT / "docs" / "deploying.md").read_text("utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
ACME = {f"ACME_{name}_ORIGIN": f"https://{name.lower()}.example.com" for name in ("IDP", "CRM", "TRACKER", "WAREHOUSE")}


def command(beginning: str) -> str:
    """The one line of the page that begins so."""
    found: str
    (found,) = [line for block in COMMANDS for line in block.splitlines() if line.startswith(beginning)]
    return found


def do(line: str, folder: Path) -> str:
    """As somebody does it in a checkout whose `.venv` is active."""
    programs = str(Path(sys.executable).parent)
    environment = (
        os.environ | ACME | {"CAB_ORIGIN": "https://cab.example.com", "PATH": f"{programs}:{os.environ['PATH']}"}
    )
    done = subprocess.run(
        ["sh", "-euc", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("terraform", "shared", "functions", "requirements", "pyproject.toml", "README.md", "LICENSE", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "my-config").symlink_to(ROOT / "examples" / "acme")
    return tmp_path


def test_the_configuration_is_checked_and_its_secrets_are_listed_as_the_page_says(checkout: Path) -> None:
    assert re.search(
        r"^valid, \d+ warning\(s\), policy version sha-256:",
        do(command("cab config validate"), checkout),
        flags=re.MULTILINE,
    )
    listed = set(do(command("grep -rho"), checkout).splitlines())
    deployment = FolderConfiguration(
        ROOT / "examples" / "acme", ACME | {"CAB_ORIGIN": "https://cab.example.com"}
    ).load()
    assert listed == {name for name, _ in configured_secrets(deployment)}


def test_the_archives_and_the_folder_of_the_image_are_where_the_page_says(checkout: Path) -> None:
    printed = do(command("terraform/package"), checkout).strip()
    assert re.fullmatch(r"\.build/cab-[0-9a-f]{16}\.zip", printed)
    uploaded = do(
        command("gcloud storage cp").replace("gcloud storage cp", "ls -1").replace(" gs://$PROJECT-source/", ""),
        checkout,
    )
    assert [name.removeprefix(printed.removesuffix(".zip")) for name in uploaded.split()] == [
        ".call_tool.zip",
        ".image.zip",
        ".zip",
    ]
    do(command("unzip"), checkout)
    assert (checkout / ".build" / "image" / "Dockerfile").is_file()


def test_a_private_authority_travels_beside_the_public_ones_and_no_other_file_does(checkout: Path) -> None:
    (checkout / "my-config").unlink()
    shutil.copytree(ROOT / "examples" / "acme", checkout / "my-config")
    for name in ("private-key.pem", "local-secrets.yaml"):
        (checkout / "my-config" / name).write_text("left lying about")
    shutil.copy(Authority(checkout).roots(), checkout / "acme-authority.pem")
    do(command("cat "), checkout)
    printed = do(command("terraform/package"), checkout).strip()
    for which in ("", ".call_tool", ".image"):
        with zipfile.ZipFile(checkout / printed.replace(".zip", f"{which}.zip")) as archive:
            packed = {name for name in archive.namelist() if name.startswith("config/") and not name.endswith(".cedar")}
            assert packed == {f"config/{name}" for name in (*YAML_FILES, "authorities.pem")}
            archive.extract("config/authorities.pem", checkout)
    public = ssl.create_default_context(cafile=certifi.where()).get_ca_certs()
    believed = ssl.create_default_context(cafile=checkout / "config" / "authorities.pem").get_ca_certs()
    assert len(believed) == len(public) + 1


def test_the_example_of_the_page_is_the_smallest_caller_and_valid(module: Path) -> None:
    example = module / "examples" / "minimal"
    (shown,) = re.findall(r"^```hcl\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert shown == (example / "main.tf").read_text("utf-8")
    assert terraform(example, "init", "-backend=false").returncode == 0
    assert terraform(example, "validate").returncode == 0


def test_every_command_of_cab_on_the_page_exists_with_its_options() -> None:
    known = dict(commands(main))
    lines = [line for block in COMMANDS for line in block.splitlines() if line.startswith("cab ")]
    assert len(lines) >= 3
    for line in lines:
        name = max((name for name in known if line.startswith(f"{name} ")), key=len)
        options_of_it = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= options_of_it, line


def test_every_variable_is_told_of_and_no_other() -> None:
    variables = re.findall(
        r'^variable "(\w+)"', (ROOT / "terraform" / "variables.tf").read_text("utf-8"), flags=re.MULTILINE
    )
    table = PAGE[PAGE.index("| Variable | Default |") : PAGE.index("### A trial without DNS")]
    told = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    assert Counter(told) == Counter(variables)


def test_the_page_says_what_the_model_says_that_it_costs() -> None:
    assert first_project() in PAGE, "run: python -m benchmarks.capacity"
    assert options() in PAGE, "run: python -m benchmarks.capacity"


def test_the_model_counts_what_the_module_makes(tested: ModuleRun) -> None:
    state: list[State] = list(resources(tested.state("rights")["root_module"]))
    mine = Counter(it["type"] for it in state if it["name"] != "doctor")
    conditions = [
        condition
        for it in state
        if it["type"] == "google_monitoring_alert_policy" and it["name"] != "doctor"
        for condition in it["values"]["conditions"]
    ]
    assert Made() == Made(
        forwarding_rules=mine["google_compute_global_forwarding_rule"],
        dns_zones=mine["google_dns_managed_zone"],
        scheduled_jobs=mine["google_cloud_scheduler_job"],
        uptime_checks=mine["google_monitoring_uptime_check_config"],
        own_secrets=sum(it["type"] == "google_secret_manager_secret" and it["name"] == "broker" for it in state),
        alert_conditions=len(conditions),
        conditions_by_function=sum(
            ("service_name" in str(it) and "one_of" in str(it)) or "by (service_name)" in str(it) for it in conditions
        ),
        armor_rules=(ROOT / "terraform" / "modules" / "origin" / "main.tf").read_text("utf-8").count("\n  rule {"),
    )

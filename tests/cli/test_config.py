"""`cab config`, as people and pipelines call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from google.api_core import exceptions
from tests.adapters.configuration.deployment_folder import AGENTS, BROKER, ENVIRONMENT, replaced, write_folder

from cab_ops.cli.config import config_group

ACME = Path(__file__).resolve().parents[2] / "examples" / "acme"


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env=ENVIRONMENT)


def test_a_valid_folder_is_said_to_be_valid(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(config_group, ["validate", str(write_folder(tmp_path))])
    assert result.exit_code == 0
    assert result.output.startswith("valid, 0 warning(s), policy version sha-256:")


def test_a_mistake_is_printed_with_file_line_and_remedy_and_exits_with_1(runner: CliRunner, tmp_path: Path) -> None:
    root = write_folder(tmp_path, broker=replaced(BROKER, "tenants:", "tenant:"))
    result = runner.invoke(config_group, ["validate", str(root)])
    assert result.exit_code == 1
    assert (
        f"{root}/broker.yaml:3: error: tenant is not a key that is known here\n    did you mean `tenants`?"
        in result.output
    )
    assert result.output.endswith("2 error(s), 0 warning(s)\n")


def test_warnings_alone_exit_with_0(runner: CliRunner, tmp_path: Path) -> None:
    root = write_folder(tmp_path, broker=replaced(BROKER, "[CRM_ORIGIN]", "[CRM_ORIGIN, OTHER]"))
    result = runner.invoke(config_group, ["validate", str(root)])
    assert (result.exit_code, "OTHER is declared and never used" in result.output) == (0, True)


def test_an_unset_variable_is_a_warning_where_files_are_only_checked(runner: CliRunner, tmp_path: Path) -> None:
    root = write_folder(tmp_path, agents=AGENTS.replace("https://crm.test", "${CRM_ORIGIN}"))
    result = runner.invoke(config_group, ["validate", str(root)], env={"CRM_ORIGIN": None})
    assert result.exit_code == 0
    assert f"{root}/broker.yaml:2: warning: the environment variable CRM_ORIGIN is unset" in result.output
    at_start = runner.invoke(config_group, ["validate", "--as-at-start", str(root)], env={"CRM_ORIGIN": None})
    assert at_start.exit_code == 1


def test_json_output_has_the_same_content(runner: CliRunner, tmp_path: Path) -> None:
    root = write_folder(tmp_path, broker=replaced(BROKER, "origin: https://cab.test", "origin: http://cab.test"))
    result = runner.invoke(config_group, ["validate", "--json", str(root)])
    answer = json.loads(result.output)
    assert result.exit_code == 1
    assert answer["valid"] is False
    assert answer["policy_version"].startswith("sha-256:")
    assert answer["problems"] == [
        {
            "file": "broker.yaml",
            "line": 1,
            "message": "origin is not https",
            "remedy": "use https; plain http is for 127.0.0.1, localhost and [::1] only",
            "severity": "error",
        }
    ]


def test_a_folder_that_is_not_there_exits_with_1(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(config_group, ["validate", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert "is not a folder" in result.output


def test_schemas_are_written_into_a_folder(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(config_group, ["schemas", str(tmp_path / "schemas")])
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "schemas").iterdir()) == [
        "agents.schema.json",
        "broker.schema.json",
        "connections.schema.json",
        "identity_providers.schema.json",
    ]


def test_a_document_without_markers_is_left_alone(runner: CliRunner, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("no markers")
    result = runner.invoke(config_group, ["reference", str(document)])
    assert (result.exit_code, document.read_text()) == (1, "no markers")


def test_an_export_says_whose_each_agent_is_and_what_it_may_ask_for() -> None:
    arguments = ["export", str(ACME), "--project", "p", "--commit", "c1", "--json"]
    result = CliRunner().invoke(config_group, arguments)
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)
    (sales,) = [agent for agent in row["agents"] if agent["agent_id"] == "sales-assistant"]
    assert (sales["owner"], sales["team"]) == ("sales-tools@acme.example", "sales")
    assert "crm.opportunity.read" in sales["actions"]
    assert row["commit"] == "c1"
    assert {action["action"] for action in row["catalog"]} >= set(sales["actions"])
    assert "sales-read" in row["rules"]


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        (exceptions.NotFound, "p: cab_audit.configuration is not there: deploy Terraform"),
        (exceptions.BadRequest, "p: cab_audit.configuration is not there: deploy Terraform"),
        (exceptions.Forbidden, "you may not write there"),
        (exceptions.ServiceUnavailable, "The audit tables cannot be reached"),
        (requests.exceptions.ConnectionError, "The audit tables cannot be reached"),
        (partial(exceptions.RetryError, cause=None), "The audit tables cannot be reached"),
    ],
)
def test_an_export_that_cannot_be_written_says_why_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, ends: Callable[[str], Exception], says: str
) -> None:
    def write(*_: object) -> None:
        raise ends("in words of its own")

    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr("cab.adapters.google_cloud.bigquery.configuration_table.write", write)
    result = CliRunner().invoke(config_group, ["export", str(ACME), "--project", "p"])
    assert (result.exit_code, says in result.output, result.output.count("\n")) == (1, True, 1), result.output


def test_what_is_not_valid_is_not_exported(tmp_path: Path) -> None:
    result = CliRunner().invoke(config_group, ["export", str(tmp_path), "--project", "p", "--json"])
    assert result.exit_code == 1
    assert "is not valid" in result.output

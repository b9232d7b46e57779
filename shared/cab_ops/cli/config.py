"""`cab config`: check a deployment folder; write what is generated from its models: JSON Schemas and reference tables."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.configuration.loader import inspect_folder
from cab.adapters.configuration.problems import ConfigurationRefused, errors_among
from cab_ops.cli.catalog import import_mcp, import_openapi, ready_actions
from cab_ops.cli.cloud import json_option, project_option
from cab_ops.configuration.presets import compiled_presets
from cab_ops.configuration.provider_table import provider_table, rows_as_dicts, with_provider_table
from cab_ops.configuration.reference import with_reference
from cab_ops.configuration.schemas import json_schemas, schema_text

if TYPE_CHECKING:  # what only one command needs is imported by it
    from cab.adapters.google_cloud.bigquery.configuration_table import ConfigurationRow


@click.group("config")
def config_group() -> None:
    """Check and describe configuration files."""


@config_group.command("validate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option("--as-at-start", is_flag=True, help="Also fail when a declared environment variable is unset here.")
def validate(folder: Path, *, as_json: bool, as_at_start: bool) -> None:
    """Check every file, every reference and every policy of FOLDER.

    Prints file, line and remedy of each mistake. Exits with 1 when there is an error, with 0 when there are only warnings.
    """
    inspection = inspect_folder(folder, os.environ, unset="error" if as_at_start else "warning")
    errors = errors_among(inspection.problems)
    warnings = len(inspection.problems) - len(errors)
    deployment = inspection.deployment
    if as_json:
        answer = {
            "valid": inspection.valid,
            "policy_version": deployment.policy_version if deployment else None,
            "problems": [asdict(problem) for problem in inspection.problems],
        }
        click.echo(json.dumps(answer, indent=2))
    else:
        for problem in inspection.problems:
            click.echo(f"{folder / problem.file}:{problem.line}: {problem.severity}: {problem.message}")
            click.echo(f"    {problem.remedy}")
        if inspection.valid and deployment:
            click.echo(f"valid, {warnings} warning(s), policy version {deployment.policy_version}")
        else:
            click.echo(f"{len(errors)} error(s), {warnings} warning(s)")
    if not inspection.valid:
        raise SystemExit(1)


@config_group.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@project_option
@click.option("--dataset", envvar="CAB_AUDIT_DATASET", default="cab_audit", show_default=True, help="BigQuery dataset.")
@click.option("--commit", help="Of the repository that is deployed; shown beside the policy version.")
@json_option
def export(folder: Path, project: str, dataset: str, commit: str | None, *, as_json: bool) -> None:
    """Write what FOLDER configures beside the record, so that names, owners and allow-lists join there. Run it at each deploy.

    One row of the table configuration; the views agents, connections, catalog and policy_versions show it. With --json the
    row is printed and nothing is written.
    """
    from cab.adapters.google_cloud.bigquery.configuration_table import configuration_row

    inspection = inspect_folder(folder, os.environ, unset="warning")
    if inspection.deployment is None or not inspection.valid:
        raise click.ClickException(f"{folder} is not valid: cab config validate {folder} says why.")
    deployment = inspection.deployment
    engine = CedarPolicyEngine(deployment)
    row = configuration_row(deployment, rules=engine.rule_ids, commit=commit, at=datetime.now(UTC))
    if as_json:
        click.echo(orjson.dumps(row, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode())
        return
    _write(project, dataset, row)
    click.echo(
        f"exported {len(row.agents)} agents, {len(row.connections)} connections, policy version {row.policy_version}"
    )


def _write(project: str, dataset: str, row: ConfigurationRow) -> None:
    from google.api_core.exceptions import BadRequest, Forbidden, NotFound

    from cab.adapters.google_cloud.bigquery.configuration_table import write
    from cab_ops.audit.questions import outages
    from cab_ops.cli.audit.access import tables_of

    table = f"{project}: {dataset}.configuration"
    with tables_of(project, dataset) as tables, outages():
        try:
            errors = write(tables.client, dataset, row)
        except (NotFound, BadRequest) as error:
            raise click.ClickException(
                f"{table} is not there: deploy Terraform, or name --project and --dataset."
            ) from error
        except Forbidden as error:
            raise click.ClickException(
                f"{table}: you may not write there. Ask for roles/bigquery.dataEditor on it."
            ) from error
    if errors:
        raise click.ClickException(f"{table} did not take the row: upgrade the table first.")


@config_group.command("schemas")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def schemas(folder: Path) -> None:
    """Write the JSON Schemas of the four YAML files into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in json_schemas().items():
        (folder / name).write_text(schema_text(schema), encoding="utf-8")
        click.echo(str(folder / name))


@config_group.command("reference")
@click.argument("document", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def reference(document: Path) -> None:
    """Write the table of every key into DOCUMENT, between its markers."""
    try:
        document.write_text(with_reference(document.read_text(encoding="utf-8")), encoding="utf-8")
    except ValueError as exc:
        raise click.ClickException(str(exc)) from exc


@config_group.command("providers")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option(
    "--write",
    "document",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Write the table into this Markdown document, between its markers.",
)
@click.option(
    "--compile",
    "compiled",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what the functions read, shared/cab/data/providers.json, of providers.yaml.",
)
def providers(*, as_json: bool, document: Path | None, compiled: Path | None) -> None:
    """Show the provider presets that come with CAB."""
    if compiled is not None:
        try:
            compiled.write_bytes(compiled_presets())
        except ConfigurationRefused as exc:
            raise click.ClickException(str(exc)) from exc
    elif document is not None:
        try:
            document.write_text(with_provider_table(document.read_text(encoding="utf-8")), encoding="utf-8")
        except ValueError as exc:
            raise click.ClickException(str(exc)) from exc
    elif as_json:
        click.echo(json.dumps({"providers": rows_as_dicts()}, indent=2))
    else:
        click.echo(provider_table(), nl=False)


for command in (import_openapi, import_mcp, ready_actions):
    config_group.add_command(command)

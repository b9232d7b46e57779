"""`cab config`: check a deployment folder; write what is generated from its models: JSON Schemas and reference tables."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from cab.adapters.configuration.loader import inspect_folder
from cab.adapters.configuration.problems import errors_among
from cab_ops.configuration.provider_table import provider_table, rows_as_dicts, with_provider_table
from cab_ops.configuration.reference import with_reference
from cab_ops.configuration.schemas import json_schemas, schema_text


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
def providers(*, as_json: bool, document: Path | None) -> None:
    """Show the provider presets that come with CAB."""
    if document is not None:
        try:
            document.write_text(with_provider_table(document.read_text(encoding="utf-8")), encoding="utf-8")
        except ValueError as exc:
            raise click.ClickException(str(exc)) from exc
    elif as_json:
        click.echo(json.dumps({"providers": rows_as_dicts()}, indent=2))
    else:
        click.echo(provider_table(), nl=False)

"""`cab config`: check a deployment folder, and write the JSON Schemas that editors use for it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from cab.adapters.configuration.loader import inspect_folder
from cab.adapters.configuration.problems import errors_among


@click.group("config")
def config_group() -> None:
    """Check and describe configuration files."""


@config_group.command("validate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def validate(folder: Path, *, as_json: bool) -> None:
    """Check every file, every reference and every policy of FOLDER.

    Prints file, line and remedy of each mistake. Exits with 1 when there is an error, with 0 when there are only warnings.
    """
    inspection = inspect_folder(folder, os.environ)
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

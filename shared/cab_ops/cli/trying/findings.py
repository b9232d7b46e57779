"""What `cab connection check` and `cab idp check` share: the folder they are about, and how they tell what was found."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.configuration.problems import ConfigurationRefused
from cab.domain.configured.deployment import Deployment
from cab_ops.check_connection import Finding, Holds


def load_folder(folder: Path) -> Deployment:
    """Raises: click.UsageError, exit status 2, when the configuration cannot be read."""
    try:
        return FolderConfiguration(folder, os.environ).load()
    except ConfigurationRefused as error:
        raise click.UsageError(f"{folder} is no usable configuration: run `cab config validate {folder}`.") from error


def tell(
    findings: Sequence[Finding], about: Mapping[str, object], *, as_json: bool, width: int, last_line: str
) -> None:
    """`about` comes before the findings in JSON, `last_line` after them in text. Exits with 1 when a check does not hold."""
    if as_json:
        checks = [{"check": it.check, "result": it.holds.value, "says": it.says} for it in findings]
        click.echo(json.dumps({**about, "checks": checks}, indent=2))
    else:
        for it in findings:
            click.echo(f"{it.holds.value:<14} {it.check:<{width}} {it.says}")
        click.echo(last_line)
    if any(it.holds is Holds.NO for it in findings):
        raise SystemExit(1)

"""`cab doctor`: what is wrong with a deployment, one line each, with the remedy."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Final

import click

from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.configuration.problems import ConfigurationRefused
from cab.domain.text.safe import plain
from cab_ops.check_connection import Holds
from cab_ops.cli.cloud import json_option, project_option
from cab_ops.doctor.diagnosis import Diagnosis
from cab_ops.doctor.examination import PARTS, Examination
from cab_ops.doctor.exercise import Probe, UnreadableProbe, read_probe

_WORDS: Final = {Holds.YES: "well", Holds.NO: "ILL", Holds.UNKNOWN: "unknown"}


@click.command("doctor")
@click.option(
    "--config",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="CAB_CONFIG_DIR",
    show_envvar=True,
    default=Path(),
    show_default=True,
    help="The deployment's folder.",
)
@project_option
@click.option("--dataset", envvar="CAB_AUDIT_DATASET", default="cab_audit", show_default=True, help="BigQuery dataset.")
@click.option(
    "--probe",
    "probe_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CAB_PROBE_FILE",
    show_envvar=True,
    help="An exchange that must succeed, as JSON (docs/doctor.md). Without it none is tried.",
)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Look at this part alone; may be repeated.")
@click.option("--all", "show_all", is_flag=True, help="Show also what is well and what could not be known.")
@json_option
def doctor_command(
    folder: Path,
    project: str,
    dataset: str,
    probe_file: Path | None,
    only: tuple[str, ...],
    *,
    show_all: bool,
    as_json: bool,
) -> None:
    """Examine a deployment and say what is wrong, one line each, with the remedy. Says nothing when all is well.

    Changes nothing, reads no grant and shows no secret. It tries each client secret at its provider with a made-up token, and asks
    for one exchange with a forged signature, which the audit records. Exits with 1 when something is ill, with 2 when the
    configuration or the probe cannot be read.
    """
    logging.disable(logging.CRITICAL)  # what adapters log of a dependency that is down is what the findings say
    try:
        deployment = FolderConfiguration(folder, os.environ).load()
    except ConfigurationRefused as error:
        raise click.UsageError(f"{folder} is no usable configuration: run `cab config validate {folder}`.") from error
    probe: Probe | None = None
    if probe_file is not None:
        try:
            probe = read_probe(probe_file)
        except UnreadableProbe as error:
            raise click.UsageError(str(error)) from error
    from cab.adapters.system import SystemClock

    examination = Examination(deployment, project, dataset, probe, SystemClock())
    found = asyncio.run(examination(only or PARTS))
    shown = [it for it in found if show_all or it.holds is Holds.NO]
    if as_json:
        click.echo(json.dumps({"healthy": _healthy(found), "findings": [_as_json(it) for it in shown]}, indent=2))
    else:
        for it in shown:
            click.echo(_as_text(it))
    if not _healthy(found):
        raise SystemExit(1)


def _healthy(found: list[Diagnosis]) -> bool:
    return all(it.holds is not Holds.NO for it in found)


def _as_text(it: Diagnosis) -> str:
    """One line, in which nothing that the other side said acts on the terminal."""
    return plain(f"{_WORDS[it.holds]:<8} {it.check}: {it.says}" + (f". Remedy: {it.remedy}" if it.remedy else ""))


def _as_json(it: Diagnosis) -> dict[str, str]:
    return {"check": it.check, "result": _WORDS[it.holds].lower(), "says": it.says, "remedy": it.remedy}

"""`cab policy`: try a proposed configuration on what was decided in the past."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.configuration.loader import inspect_folder
from cab_ops.audit.replay import DECIDED, Replay, replay
from cab_ops.cli.audit.access import tables_of
from cab_ops.cli.audit.options import Moment, dataset_option, since_option, tenant_option
from cab_ops.cli.cloud import json_option, project_option
from cab_ops.cli.tables import Column, table

_COLUMNS = (
    Column("agent", "agent"),
    Column("action", "action", keep=True),
    Column("before", "was", keep=True),
    Column("after", "would be", keep=True),
    Column("count", "n"),
    Column("unsure", "unsure"),
    Column("rules", "by rules"),
    Column("events", "e.g.", short=True),
)


@click.group("policy")
def policy_group() -> None:
    """Try a configuration on what was decided in the past."""


@policy_group.command("replay", short_help="What a proposed configuration would have decided.")
@click.option(
    "--config",
    "folder",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="The proposed configuration.",
)
@project_option
@dataset_option
@since_option("30d")
@click.option("--until", type=Moment(), help="Only what was decided before this.  [default: now]")
@tenant_option
@click.option(
    "--limit", type=click.IntRange(1, 10_000_000), default=1_000_000, show_default=True, help="Most decisions."
)
@click.option(
    "--fail-above",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    help="Exit with 1 when more than this percentage of decisions would flip for sure.",
)
@json_option
def replay_command(
    folder: Path,
    project: str,
    dataset: str,
    since: datetime,
    until: datetime | None,
    tenant: str | None,
    limit: int,
    fail_above: float,
    *,
    as_json: bool,
) -> None:
    """Judge the recorded exchanges again under a proposed configuration, by the very code that decides.

    Says what would flip and by which rules, and what cannot be known from the record. Fit for a pull request: exits with 1
    above a threshold.
    """
    inspection = inspect_folder(folder, os.environ, unset="warning")
    if inspection.deployment is None or not inspection.valid:
        raise click.ClickException(f"{folder} is not valid: cab config validate {folder} says why.")
    engine = CedarPolicyEngine(inspection.deployment)
    with tables_of(project, dataset) as tables:
        rows = tables.ask(DECIDED, since=since, until=until or datetime.now(UTC), tenant=tenant, limit=limit)
        answer = replay((row["event_json"] or "" for row in rows), inspection.deployment, engine)
    is_cut = answer.decisions + answer.unreadable == limit
    click.echo(json.dumps(_document(answer, is_cut=is_cut), indent=2) if as_json else _text(answer, is_cut=is_cut))
    if answer.flips > answer.decisions * fail_above / 100:
        raise SystemExit(1)


def _rows(answer: Replay) -> list[dict[str, Any]]:
    return [
        {**asdict(change), "rules": list(change.rules), **asdict(found), "why_unsure": sorted(found.why_unsure)}
        for change, found in sorted(answer.changes.items(), key=lambda item: -item[1].count)
    ]


def _document(answer: Replay, *, is_cut: bool) -> dict[str, Any]:
    return {
        "cut": is_cut,
        "decisions": answer.decisions,
        "flips": answer.flips,
        "unsure": answer.unsure,
        "unreadable": answer.unreadable,
        "changes": _rows(answer),
    }


def _text(answer: Replay, *, is_cut: bool) -> str:
    rows = _rows(answer)
    lines = [table(_COLUMNS, rows), ""] if rows else []
    lines.append(f"{answer.decisions} decisions judged again: {answer.flips} would flip, {answer.unsure} may")
    lines += [f"unsure: {reason}" for reason in sorted({reason for row in rows for reason in row["why_unsure"]})]
    if answer.unreadable:
        lines.append(f"{answer.unreadable} rows hold no event of this version")
    if is_cut:
        lines.append("later ones may not have been read: --limit")
    return "\n".join(lines)

"""`cab audit export`: the record for a SIEM, resumable."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import click
from pydantic import ValidationError

from cab_ops.audit.export import Cursor, export
from cab_ops.cli.audit.access import tables_of
from cab_ops.cli.audit.options import dataset_option, since_option, tenant_option
from cab_ops.cli.cloud import project_option


@click.command("export", short_help="Events for a SIEM, as published or as OCSF, resumable.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "ocsf"]),
    default="jsonl",
    show_default=True,
    help="One per line.",
)
@project_option
@dataset_option
@since_option()
@click.option(
    "--cursor",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that keeps the place: begins there, and is written when the lines are out. --since counts for the first time.",
)
@tenant_option
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100_000, show_default=True, help="Most events.")
def export_command(
    format_: str,
    project: str,
    dataset: str,
    since: datetime,
    cursor: Path | None,
    tenant: str | None,
    limit: int,
) -> None:
    """Print events in the order in which they came, one JSON object per line.

    jsonl is each event as it was published, to the byte. A crash between the lines and the cursor repeats lines, and never
    leaves any out: deduplicate by event_id (OCSF: metadata.uid).
    """
    place = _read(cursor) if cursor is not None and cursor.exists() else Cursor(received_at=since)
    with tables_of(project, dataset) as tables:
        kind = cast(Literal["jsonl", "ocsf"], format_)
        for event, after in export(tables, kind, place, now=datetime.now(UTC), tenant=tenant, limit=limit):
            place = after
            click.echo(event if isinstance(event, str) else json.dumps(event))
    if cursor is not None:
        beside = cursor.with_name(f"{cursor.name}.new")
        beside.write_text(place.model_dump_json(), encoding="utf-8")
        beside.replace(cursor)


def _read(path: Path) -> Cursor:
    try:
        return Cursor.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise click.ClickException(f"{path} holds no cursor: remove it to begin at --since.") from error

"""`cab audit report`: the views as one readable page."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from cab_ops.audit.report import gather
from cab_ops.cli.audit.access import rows_as_json, tables_of
from cab_ops.cli.audit.options import (
    Moment,
    dataset_option,
    heads_key_option,
    heads_option,
    longest_pause_option,
    since_option,
    tenant_option,
)
from cab_ops.cli.audit.verify import noted_by
from cab_ops.cli.cloud import json_option, project_option


@click.command("report", short_help="One HTML page with charts, from the same views.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write.  [default: audit-report.html]"
)
@project_option
@dataset_option
@since_option()
@click.option("--until", type=Moment(), help="End of the period.  [default: now]")
@tenant_option
@heads_option
@heads_key_option
@longest_pause_option
@json_option
def report(
    out: Path | None,
    project: str,
    dataset: str,
    since: datetime,
    until: datetime | None,
    tenant: str | None,
    heads: str | None,
    heads_key: str | None,
    longest_pause: timedelta,
    *,
    as_json: bool,
) -> None:
    """Write one HTML page that holds everything it shows: charts, tables, light and dark, ready to print.

    With --json the page's numbers are printed instead and no file is written, unless --out names one.
    """
    from cab_ops.cli.audit.html.page import render

    now = datetime.now(UTC)
    until = until or now
    if since >= until:
        raise click.UsageError("--since must be before --until.")
    with tables_of(project, dataset) as tables:
        notes = noted_by(heads, heads_key, since=since, until=until)
        facts = gather(tables, since=since, until=until, tenant=tenant, notes=notes, longest_pause=longest_pause)
    if as_json:
        click.echo(rows_as_json(asdict(facts)))
    if out is not None or not as_json:
        path = out or Path("audit-report.html")
        path.write_text(render(facts, dataset=f"{project}.{dataset}", made_at=now), "utf-8")
        click.echo(f"wrote {path}", err=as_json)

"""`cab audit verify-chain`: is the record whole and unchanged? And the note of today's heads, to be kept elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, BinaryIO

import click
from pydantic import BaseModel, ConfigDict, ValidationError

from cab_ops.audit.verification import Head, Verdict, verify
from cab_ops.cli.audit.access import tables_of
from cab_ops.cli.audit.options import Moment, dataset_option, since_option
from cab_ops.cli.cloud import json_option, project_option
from cab_ops.cli.tables import Column, table

_FINDINGS = (
    Column("kind", "finding", keep=True),
    Column("chain_id", "chain", short=True),
    Column("seq", "seq"),
    Column("occurred_at", "time (UTC)"),
    Column("event_id", "event", short=True),
    Column("detail", "what", keep=True),
)


class _Note(BaseModel):
    """What `--json` printed earlier, as far as it is needed."""

    model_config = ConfigDict(extra="ignore")

    since: datetime
    heads: list[Head]


@click.command("verify-chain", short_help="Recompute the hashes: was anything changed or removed?")
@project_option
@dataset_option
@since_option()
@click.option("--until", type=Moment(), help="Only chains that have an event before this.  [default: now]")
@click.option(
    "--against",
    type=click.File("rb"),
    help="An earlier --json output, kept where the table's writers cannot write: its heads must still be there.",
)
@json_option
def verify_chain(
    project: str,
    dataset: str,
    since: datetime,
    until: datetime | None,
    against: BinaryIO | None,
    *,
    as_json: bool,
) -> None:
    """Recompute the hash of every event of the chains that touch the time range, and follow each chain from its start.

    Exits with 1 when something is missing, edited, forked or was noted differently; chains still open are no finding.
    """
    note = _read_note(against) if against else None
    if note:
        since = min(since, note.since)
    until = until or datetime.now(UTC)
    with tables_of(project, dataset) as tables:
        verdict = verify(tables, since=since, until=until, noted=note.heads if note else ())
    click.echo(_as_json(verdict, since, until) if as_json else _as_text(verdict))
    if verdict.findings:
        raise SystemExit(1)


def _read_note(file: BinaryIO) -> _Note:
    try:
        return _Note.model_validate_json(file.read())
    except ValidationError as error:
        raise click.UsageError("--against wants the JSON output of an earlier verify-chain.") from error


def _as_json(verdict: Verdict, since: datetime, until: datetime) -> str:
    answer: dict[str, Any] = {
        "whole": not verdict.findings,
        "since": since.isoformat(),
        "until": until.isoformat(),
        "events": verdict.events,
        "recomputed": verdict.recomputed,
        "findings": [asdict(finding) for finding in verdict.findings],
        "heads": [asdict(head) for head in verdict.heads],
    }
    return json.dumps(answer, indent=2, default=lambda value: value.isoformat())


def _as_text(verdict: Verdict) -> str:
    lines: list[str] = []
    if verdict.findings:
        lines += [table(_FINDINGS, [asdict(finding) for finding in verdict.findings]), ""]
    lines.append(
        f"{verdict.events} events in {len(verdict.heads)} chains, {verdict.recomputed} hashes recomputed, "
        f"{_counted(verdict.findings)}; {sum(not head.closed for head in verdict.heads)} chains are open"
    )
    return "\n".join(lines)


def _counted(findings: Sequence[Any]) -> str:
    return (
        "nothing missing or changed" if not findings else f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
    )

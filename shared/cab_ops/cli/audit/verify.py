"""`cab audit verify-chain`: is the record whole and unchanged? And the note of today's heads, to be kept elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import click
from pydantic import BaseModel, ConfigDict, ValidationError

from cab_ops.audit.heads import (
    BadKey,
    BadNote,
    Notes,
    encode,
    heads_keys,
    last_note,
    name_of,
    notes_of,
    store_at,
    take_note,
    told_shorter,
    verify_beside,
)
from cab_ops.audit.verification import Head, Verdict
from cab_ops.cli.audit.access import tables_of
from cab_ops.cli.audit.options import (
    Moment,
    dataset_option,
    heads_key_option,
    heads_option,
    longest_pause_option,
    since_option,
)
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


_QUIET = "nothing for an hour, and not closed"


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
@heads_option
@heads_key_option
@longest_pause_option
@json_option
def verify_chain(
    project: str,
    dataset: str,
    since: datetime,
    until: datetime | None,
    against: BinaryIO | None,
    heads: str | None,
    heads_key: str | None,
    longest_pause: timedelta,
    *,
    as_json: bool,
) -> None:
    """Recompute the hash of every event of the chains that touch the time range, and follow each chain from its start.

    With --heads (or CAB_AUDIT_HEADS) the signed notes of cab audit note-heads are held against it by itself: then also a
    removed tail, chain or day is found and named, and where notes are missing. Exits with 1 when something is missing,
    edited, forked, was noted differently or not at all; chains still open are no finding, and those that ended without
    closing are counted.
    """
    note = _read_note(against) if against else None
    if note:
        since = min(since, note.since)
    now = datetime.now(UTC)
    until = until or now
    if since >= until:
        raise click.UsageError("--since must be before --until.")
    with tables_of(project, dataset) as tables:
        notes = noted_by(heads, heads_key, since=since, until=until)
        verdict, quiet = verify_beside(
            tables,
            notes,
            since=since,
            until=until,
            now=now,
            longest_pause=longest_pause,
            noted=note.heads if note else (),
        )
    noted_at = notes.last if notes else None
    click.echo(_as_json(verdict, since, until, quiet, noted_at) if as_json else _as_text(verdict, quiet, noted_at))
    if verdict.findings:
        raise SystemExit(1)


def noted_by(heads: str | None, heads_key: str | None, *, since: datetime, until: datetime) -> Notes | None:
    """The signed notes kept at `heads`; none without such a place."""
    if heads is None:
        return None
    if heads_key is None:
        raise click.UsageError("--heads wants --heads-key: the notes are signed.")
    try:
        return notes_of(store_at(heads), [key.public() for key in heads_keys(heads_key)], since=since, until=until)
    except BadKey as error:
        raise click.UsageError(f"--heads-key: {error}.") from error
    except BadNote as error:
        raise click.ClickException(f"A note in {heads} is not to be believed: {error}.") from error


def _read_note(file: BinaryIO) -> _Note:
    try:
        return _Note.model_validate_json(file.read())
    except ValidationError as error:
        raise click.UsageError("--against wants the JSON output of an earlier verify-chain.") from error


def _as_json(
    verdict: Verdict, since: datetime, until: datetime, quiet: Sequence[Head], noted_at: datetime | None
) -> str:
    answer: dict[str, Any] = {
        "whole": not verdict.findings,
        "since": since.isoformat(),
        "until": until.isoformat(),
        "noted_until": noted_at,
        "events": verdict.events,
        "recomputed": verdict.recomputed,
        "findings": [asdict(finding) for finding in verdict.findings],
        "ended_without_close": [asdict(head) for head in quiet],
        "heads": [asdict(head) for head in verdict.heads],
    }
    return json.dumps(answer, indent=2, default=lambda value: value.isoformat())


def _as_text(verdict: Verdict, quiet: Sequence[Head], noted_at: datetime | None) -> str:
    lines: list[str] = []
    if verdict.findings:
        lines += [table(_FINDINGS, [asdict(finding) for finding in verdict.findings]), ""]
    if quiet:
        shown = [{**asdict(head), "kind": "ended_without_close", "detail": _QUIET} for head in quiet]
        lines += [table(_FINDINGS, shown), ""]
    lines.append(
        f"{verdict.events} events in {len(verdict.heads)} chains, {verdict.recomputed} hashes recomputed, "
        f"{_counted(verdict.findings)}; {_open(sum(not head.closed for head in verdict.heads))}"
        + (f", of which {len(quiet)} ended without closing: what followed may have been removed" if quiet else "")
    )
    if noted_at is not None:
        lines.append(f"held against the signed heads, the last of {noted_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC")
    elif verdict.heads:
        lines.append("not held against signed heads: whether a chain's end or a whole chain was removed is not known")
    return "\n".join(lines)


def _open(chains: int) -> str:
    return f"{chains} chain{' is' if chains == 1 else 's are'} open"


def _counted(findings: Sequence[Any]) -> str:
    return (
        "nothing missing or changed" if not findings else f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
    )


@click.command("note-heads", short_help="Note, signed, how far each chain has come.")
@project_option
@dataset_option
@click.option("--to", envvar="CAB_AUDIT_HEADS", required=True, help="gs://BUCKET or a folder.", show_envvar=True)
@click.option(
    "--key",
    envvar="CAB_AUDIT_HEADS_KEY",
    required=True,
    show_envvar=True,
    help="An EC P-256 key: a Cloud KMS key version, or a PEM file. Those that signed before follow, separated by commas.",
)
def note_heads(project: str, dataset: str, to: str, key: str) -> None:
    """Note how far each chain of the last 26 hours has come, signed, where the table's writers cannot write.

    Run it every few minutes. Exits with 1, with the note made, when a chain is shorter than it was noted before.
    """
    now = datetime.now(UTC)
    store, keys = store_at(to), heads_keys(key)
    try:
        with tables_of(project, dataset) as tables:
            before = last_note(store, [one.public() for one in keys], now=now)
            note, shorter = take_note(tables, now=now, before=before)
            store.write(name_of(note), encode(note, keys[0].sign))
    except BadKey as error:
        raise click.UsageError(f"--key: {error}.") from error
    except BadNote as error:
        raise click.ClickException(f"A note in {to} is not to be believed: {error}.") from error
    click.echo(f"noted {len(note.heads)} chains as {name_of(note)}")
    for told in told_shorter(shorter):
        click.echo(told, err=True)
    if shorter:
        raise SystemExit(1)

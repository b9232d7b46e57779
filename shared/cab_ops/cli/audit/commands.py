"""`cab audit`: questions to the audit tables, one view each. Read-only; the same on the local stack and in a project."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from cab_ops.audit import questions
from cab_ops.audit.questions import Parameter, Question, Row
from cab_ops.cli.audit.access import rows_as_json, tables_of
from cab_ops.cli.audit.export import export_command
from cab_ops.cli.audit.options import (
    Beginning,
    agent_option,
    connection_option,
    dataset_option,
    decision_option,
    limit_option,
    outcome_option,
    reason_option,
    since_option,
    tenant_option,
    txn_option,
    type_option,
    user_option,
)
from cab_ops.cli.audit.report import report
from cab_ops.cli.audit.trace import story
from cab_ops.cli.audit.verify import note_heads, verify_chain
from cab_ops.cli.cloud import TAKES_AN_ID, json_option, project_option
from cab_ops.cli.tables import Column, table, text_of


@click.group("audit")
def audit_group() -> None:
    """Ask the audit tables: who did what for whom, through whom, decided how.

    On the local stack, first: eval "$(cab dev env)"
    """


def _command(
    name: str, question: Question, columns: Sequence[Column], options: Sequence[Any], says: str, view: str
) -> None:
    """Add a command that asks one question and shows the answer as a table or as JSON."""

    def command(project: str, dataset: str, *, as_json: bool, **values: Parameter) -> None:
        with tables_of(project, dataset) as tables:
            rows = list(tables.ask(question, **values))
        if as_json:
            click.echo(rows_as_json(rows))
            return
        if not rows:
            click.echo("nothing found" + _how_to_look(values))
            return
        click.echo(table(columns, rows))
        click.echo(counted(rows, values["limit"]))

    for option in (json_option, limit_option, *reversed(options), dataset_option, project_option):
        command = option(command)
    audit_group.command(name, help=f"{says}\n\nReads the view {view}.", short_help=says)(command)


def _how_to_look(values: Mapping[str, Parameter]) -> str:
    since = values.get("since")
    looks_further = isinstance(since, datetime) and since > datetime.now(UTC) - timedelta(days=29)
    hints = [
        *(["--since 30d looks further back"] if looks_further else []),
        *(["--user takes a key as the column user shows it, no name"] if values.get("user") else []),
    ]
    return "".join(f"; {hint}" for hint in hints)


def counted(rows: Sequence[Row], limit: Parameter) -> str:
    more = "; there may be more: --limit" if len(rows) == limit else ""
    return f"{len(rows)} row{'' if len(rows) == 1 else 's'}{more}"


_TIME: Final = Column("occurred_at", "time (UTC)", keep=True)
_TXN: Final = Column("txn", "txn", short=True)
_USER: Final = Column("subject_key", "user", short=True)
_AGENT: Final = Column("agent_id", "agent")
_ACTION: Final = Column("action", "action", keep=True)
_IDENTIFIER: Final = Column("identifier", "on")
_CONNECTION: Final = Column("connection", "connection", keep=True)


def _columns(*named: Column | tuple[str, str]) -> tuple[Column, ...]:
    return tuple(column if isinstance(column, Column) else Column(*column) for column in named)


_command(
    "events",
    questions.EVENTS,
    _columns(
        _TIME, ("event_type", "event"), _USER, _AGENT, _ACTION, ("outcome", "outcome"), ("reason_code", "reason"), _TXN
    ),
    (since_option(), txn_option, user_option, agent_option, decision_option, type_option, tenant_option),
    "What happened, newest first.",
    "events",
)
_command(
    "actions",
    questions.ACTIONS,
    _columns(
        *(
            Column("day", "day", keep=True),
            _USER,
            _AGENT,
            _ACTION,
            ("effect", "effect"),
            ("requests", "requests"),
            ("issued", "issued"),
        ),
        *(("executed", "executed"), ("refused", "refused"), ("failed", "failed"), ("unknown_outcome", "unknown")),
        ("confirmed_by_user", "confirmed"),
    ),
    (since_option(), user_option, agent_option, tenant_option),
    "Who did what through whom, by day.",
    "actions_by_user_and_agent",
)
_command(
    "refusals",
    questions.REFUSALS,
    _columns(
        *(_TIME, _USER, _AGENT, _ACTION, _IDENTIFIER, ("reason_code", "reason"), ("determining_rules", "rules")),
        *(("refusals", "n"), _TXN),
    ),
    (since_option(), user_option, agent_option, reason_option, tenant_option),
    "What was refused, why and by which rule.",
    "refusals",
)
_command(
    "mismatches",
    questions.MISMATCHES,
    _columns(
        *(_TIME, _USER, _AGENT, _ACTION, _IDENTIFIER, ("comparison", "compared")),
        *(("stated_reason", "agent says (untrusted)"), _TXN),
    ),
    (since_option(), user_option, agent_option, tenant_option),
    "Agents that asked for more than the user did.",
    "intent_mismatches, the watch for prompt injection",
)
_command(
    "confirmations",
    questions.CONFIRMATIONS,
    _columns(
        *(("asked_at", "asked (UTC)"), _USER, _AGENT, _ACTION, _IDENTIFIER, ("status", "answer")),
        *(("seconds_to_answer", "after s"), ("used_at", "used (UTC)")),
    ),
    (since_option(), user_option, tenant_option),
    "Each time a user was asked, and the answer.",
    "confirmations",
)
_command(
    "grants",
    questions.GRANTS,
    _columns(
        *(Column("day", "day", keep=True), _CONNECTION, ("grants", "grants"), ("connected", "connected")),
        ("not_lasting", "not lasting"),
        *(("refreshed", "refreshed"), ("recovered", "recovered"), ("needs_reauth", "reauth"), ("revoked", "revoked")),
        *(("not_revoked_upstream", "not upstr."), ("quarantined", "quarantined"), ("failed", "failed")),
        *(("outages", "outages"), ("causes", "causes")),
    ),
    (since_option(), connection_option, tenant_option),
    "How the grants of each connection fare, by day.",
    "grant_health",
)
_command(
    "calls",
    questions.CALLS,
    _columns(
        *(_TIME, _USER, _AGENT, _ACTION, _IDENTIFIER, ("method", "method"), ("outcome", "outcome"), ("cause", "cause")),
        *(("upstream_status", "status"), _TXN),
    ),
    (since_option(), user_option, agent_option, outcome_option, tenant_option),
    "What came of each call that the broker made.",
    "calls",
)
_command(
    "unused",
    questions.UNUSED,
    _columns(
        *(
            _TIME,
            _USER,
            _AGENT,
            _ACTION,
            _IDENTIFIER,
            ("token_kind", "token"),
            ("token_expires_at", "until (UTC)"),
            _TXN,
        )
    ),
    (since_option(), user_option, tenant_option),
    "Tokens that were issued and never reported used.",
    "issued_without_outcome",
)
_command(
    "gaps",
    questions.GAPS,
    _columns(
        *(("gap", "gap"), ("function_name", "function"), ("chain_id", "chain"), ("after_seq", "after")),
        *(("before_seq", "before"), ("missing_events", "missing"), ("found_at_event", "found at event"), _TIME),
    ),
    (since_option(),),
    "Where the record is not whole.",
    "chain_gaps",
)
_command(
    "freshness",
    questions.FRESHNESS,
    _columns(
        *(("hour", "hour (UTC)"), ("events", "events"), ("median_ms", "median ms"), ("p99_ms", "p99 ms")),
        *(("max_ms", "max ms"), ("last_row_at", "last row (UTC)")),
    ),
    (since_option(),),
    "How long events take from decision to row, by hour.",
    "freshness",
)
_command(
    "who-could-have",
    questions.WHO_COULD_HAVE,
    _columns(
        *(_CONNECTION, _USER, _AGENT, ("tokens", "tokens"), ("last_token_at", "last token (UTC)")),
        *(("grant_since", "grant since (UTC)"), Column("grant_id", "grant", short=True)),
    ),
    (since_option("400d"), connection_option, user_option, tenant_option),
    "Live grants, and the agents that used them.",
    "who_could_have",
)


@audit_group.command(
    "trace", short_help="The story of one transaction, from login to call.", context_settings=TAKES_AN_ID
)
@click.argument("txn", type=Beginning())
@project_option
@dataset_option
@since_option("30d")
@limit_option
@json_option
def trace(txn: str, project: str, dataset: str, since: datetime, limit: int, *, as_json: bool) -> None:
    """Tell the story of one transaction from login to call. TXN is the `txn` of an answer, or what it begins with."""
    with tables_of(project, dataset) as tables:
        rows = list(tables.ask(questions.TRACE, txn=txn, since=since, limit=limit))
    if as_json:
        click.echo(rows_as_json(rows))
        return
    if not rows:
        raise click.ClickException("No event has this txn; --since looks further back.")
    found = sorted({row["txn"] for row in rows if (row["txn"] or "").startswith(txn)})
    if len(found) > 1:
        raise click.ClickException(f"Several transactions begin so: {text_of(found[:10])}")
    click.echo(story(found[0], rows, is_cut=len(rows) == limit))


@audit_group.command("query", short_help="Your own SELECT over the views.")
@click.argument("sql")
@project_option
@dataset_option
@since_option()
@limit_option
@json_option
def query(sql: str, project: str, dataset: str, since: datetime, limit: int, *, as_json: bool) -> None:
    """Run one SELECT statement over the views and their functions, named without project and dataset.

    `-` reads it from standard input. @since and @until are --since and now: FROM events_between(@since, @until)
    """
    text = sys.stdin.read() if sql == "-" else sql
    with tables_of(project, dataset) as tables:
        rows = list(tables.select(text, limit=limit, since=since, until=datetime.now(UTC)))
    if as_json:
        click.echo(rows_as_json(rows))
    elif rows:
        click.echo(table([Column(name, name) for name in rows[0]], rows))
    click.echo(counted(rows, limit), err=as_json)


audit_group.add_command(export_command)
audit_group.add_command(verify_chain)
audit_group.add_command(note_heads)
audit_group.add_command(report)

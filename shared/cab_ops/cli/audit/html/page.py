"""The report's sections: which question, which chart, which table; and the page they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from cab.transport.page_rendering import csp_hash, templates_of
from cab_ops.audit.questions import Row
from cab_ops.audit.report import LISTED, ReportFacts
from cab_ops.cli.audit.html.charts import Bar, Column, Part, bars, lines, stacked_columns
from cab_ops.cli.tables import shortened, text_of

_FOLDER: Final = Path(__file__).parent
_KINDS: Final = (
    Part("issued", "issued"),
    Part("asked", "user asked"),
    Part("refused", "refused"),
    Part("failed", "failed"),
)
_HOURS_SHOWN: Final = 72  # longer periods are drawn by day
_KEY_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Cell:
    """One column of a table on the page."""

    key: str
    title: str
    number: bool = False
    code: bool = False
    text: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    caption: str
    columns: Sequence[Cell]
    rows: Sequence[Mapping[str, Any]]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    text: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    id: str
    title: str
    question: str
    view: str
    tables: Sequence[Table]
    chart: Markup | None = None
    parts: Sequence[Part] = field(default=())
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    title: str
    value: str
    mood: str = ""


def render(facts: ReportFacts, *, dataset: str, made_at: datetime) -> str:
    """The whole page. Everything that comes from the table is escaped; invisible characters are spelled out."""
    style = (_FOLDER / "report.css").read_text("utf-8")
    return (
        templates_of(_FOLDER)
        .get_template("report.html")
        .render(
            style=Markup(style),  # noqa: S704 - our own file
            style_hash=csp_hash(style),
            period=f"{_minute(facts.since)} to {_minute(facts.until)}",
            tenant=facts.tenant,
            dataset=dataset,
            people=facts.people,
            made_at=f"{_minute(made_at)} UTC",
            tiles=_tiles(facts),
            sections=_sections(facts),
            cell=text_of,
        )
    )


def _tiles(facts: ReportFacts) -> list[Tile]:
    counts = {part.css: sum(row["n"] for row in facts.decisions if row["kind"] == part.css) for part in _KINDS}
    return [
        Tile("decisions", f"{sum(counts.values()):,}"),
        Tile("tokens issued", f"{counts['issued']:,}"),
        Tile("questions to users", f"{sum(row['n'] for row in facts.confirmations):,}"),
        Tile("refused", f"{counts['refused']:,}"),
        Tile("asked for too much", f"{facts.mismatch_count:,}", "bad" if facts.mismatch_count else "good"),
        Tile("gaps in the record", f"{facts.gap_count:,}", _mood_of_record(facts)),
    ]


def _mood_of_record(facts: ReportFacts) -> str:
    """Good only where it is known: without signed heads a removed end or a whole chain would not show."""
    if facts.gap_count:
        return "bad"
    return "good" if facts.noted_at is not None and not facts.quiet_chains else ""


def _sections(facts: ReportFacts) -> list[Section]:
    return [
        _mismatches(facts),
        _decisions(facts),
        _actions(facts),
        _refusals(facts),
        _confirmations(facts),
        _grants(facts),
        _record(facts),
        _arrival(facts),
    ]


def _decisions(facts: ReportFacts) -> Section:
    columns = _over_time(facts)
    shown = [{"label": column.label} | dict(zip(_KIND_NAMES, column.values, strict=True)) for column in columns]
    return Section(
        "decisions",
        "Decisions over time",
        "What was asked of the broker, and how did it answer?",
        "events",
        [
            Table(
                "The same numbers as a table",
                [Cell("label", "time (UTC)"), *(Cell(part.css, part.title, number=True) for part in _KINDS)],
                [row for row in shown if any(row[name] for name in _KIND_NAMES)],
                folded=True,
            )
        ],
        stacked_columns("Decisions over time by answer", _KINDS, columns),
        _KINDS,
    )


_KIND_NAMES: Final = tuple(part.css for part in _KINDS)


def _over_time(facts: ReportFacts) -> list[Column]:
    """One column for every hour of the period, or for every day of a long one, empty ones too."""
    by_day = facts.until - facts.since > timedelta(hours=_HOURS_SHOWN)
    step, form = (timedelta(days=1), "%b %d") if by_day else (timedelta(hours=1), "%b %d, %H:00")
    counts: dict[datetime, dict[str, int]] = {}
    at = _floor(facts.since, by_day=by_day)
    while at < facts.until:
        counts[at] = dict.fromkeys(_KIND_NAMES, 0)
        at += step
    for row in facts.decisions:
        counts[_floor(row["hour"], by_day=by_day)][row["kind"]] += row["n"]
    return [Column(at.strftime(form), tuple(values.values())) for at, values in counts.items()]


def _floor(at: datetime, *, by_day: bool) -> datetime:
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour.replace(hour=0) if by_day else hour


def _actions(facts: ReportFacts) -> Section:
    parts = (_KINDS[0], Part("refused", "not issued"))
    rows = [
        Bar(f"{text_of(row['action'])} · {text_of(row['agent_id'])}", (row["issued"], row["refused"]))
        for row in facts.actions
    ]
    columns = [
        Cell("agent_id", "agent"),
        Cell("action", "action"),
        Cell("effect", "effect"),
        *(Cell("users", "users", number=True), Cell("issued", "issued", number=True)),
        Cell("refused", "not issued", number=True),
    ]
    return Section(
        "actions",
        "Who did what through whom",
        "Which agent acted, doing what, for how many people?",
        "events",
        [Table(_cut("Agents and actions", facts.actions), columns, facts.actions, folded=True)],
        bars("Requests by action and agent", parts, rows) if rows else None,
        parts if rows else (),
    )


def _refusals(facts: ReportFacts) -> Section:
    parts = (Part("refused", "refusals"),)
    rows = [Bar(text_of(row["reason_code"]) or "not identified", (row["n"],)) for row in facts.reasons]
    reasons = [
        Cell("reason_code", "reason", code=True),
        *(
            Cell("n", "refusals", number=True),
            Cell("users", "users", number=True),
            Cell("agents", "agents", number=True),
        ),
        Cell("last_at", "last (UTC)"),
    ]
    rules = [
        Cell("rule", "rule", code=True),
        Cell("reason_code", "reason", code=True),
        *(Cell("n", "refusals", number=True), Cell("last_at", "last (UTC)")),
    ]
    return Section(
        "refusals",
        "Refusals",
        "What was refused, why, and which rule decided it?",
        "refusals",
        [
            Table(_cut("Reasons", facts.reasons), reasons, facts.reasons, folded=True),
            Table(_cut("Rules that decided", facts.rules), rules, facts.rules),
        ],
        bars("Refusals by reason", parts, rows) if rows else None,
        parts if rows else (),
    )


def _mismatches(facts: ReportFacts) -> Section:
    columns = [
        *(Cell("occurred_at", "time (UTC)"), Cell("user", "user", code=True), Cell("agent_id", "agent")),
        *(Cell("wanted", "wanted", text=True), Cell("reason_code", "refused as", code=True)),
        *(Cell("stated_reason", "the agent says (untrusted)", text=True), Cell("txn", "txn", code=True)),
    ]
    rows = [row | {"wanted": f"{row['action']} on {row['identifier']}"} for row in _with_short_keys(facts.mismatches)]
    latest = f", the latest {LISTED}" if facts.mismatch_count > len(facts.mismatches) else ""
    verdict = (
        Verdict(
            f"{facts.mismatch_count} request{'s' if facts.mismatch_count > 1 else ''} went beyond what the user had asked "
            "for. No token was issued; look for what made the agent ask.",
            bad=True,
        )
        if facts.mismatch_count
        else Verdict("No agent asked for more than its user did.")
    )
    return Section(
        "mismatches",
        "Agents that asked for too much",
        "Did text that an agent read give it orders? The watch for prompt injection.",
        "intent_mismatches",
        [
            *(
                [Table("Transactions, the likeliest attack first", _SUSPECTS, _with_short_keys(facts.suspects))]
                if rows
                else []
            ),
            *([Table(f"Requests{latest}", columns, rows, folded=bool(facts.suspects))] if rows else []),
        ],
        verdict=verdict,
    )


_SUSPECTS: Final = [
    *(Cell("score", "score", number=True), Cell("occurred_at", "time (UTC)"), Cell("user", "user", code=True)),
    *(
        Cell("agents", "agents"),
        Cell("attempts", "attempts", number=True),
        Cell("destructive", "destructive", number=True),
    ),
    *(Cell("objects", "objects", number=True), Cell("users_no", "user said no", number=True)),
    *(Cell("issued_after", "changes issued after", number=True), Cell("read_before", "had read", text=True)),
    Cell("txn", "txn", code=True),
]


def _confirmations(facts: ReportFacts) -> Section:
    css = {"approved": "issued", "refused": "refused"}
    parts = (Part("issued", "approved"), Part("refused", "refused"), Part("asked", "unanswered"))
    rows = [
        Bar(
            text_of(row["status"]),
            tuple(row["n"] if css.get(row["status"], "asked") == part.css else 0 for part in parts),
        )
        for row in facts.confirmations
    ]
    columns = [
        *(Cell("status", "answer"), Cell("n", "times", number=True), Cell("used", "then used", number=True)),
        Cell("median_s", "median seconds to answer", number=True),
    ]
    return Section(
        "confirmations",
        "Confirmations",
        "When people were asked, what did they answer, and how quickly?",
        "confirmations",
        [Table("Answers", columns, facts.confirmations)],
        bars("Confirmations by answer", parts, rows) if rows else None,
        parts if rows else (),
    )


def _grants(facts: ReportFacts) -> Section:
    health = [
        Cell("connection", "connection"),
        *(Cell("connected", "connected", number=True), Cell("not_lasting", "not lasting", number=True)),
        Cell("refreshed", "refreshed", number=True),
        *(Cell("recovered", "recovered", number=True), Cell("needs_reauth", "need the user", number=True)),
        *(Cell("revoked", "revoked", number=True), Cell("not_revoked_upstream", "not upstream", number=True)),
        *(Cell("quarantined", "quarantined", number=True), Cell("failed", "failed", number=True)),
    ]
    reach = [
        Cell("connection", "connection"),
        *(Cell("users", "users with a live grant", number=True), Cell("agents", "agents that acted", number=True)),
        Cell("never_used", "grants never used", number=True),
    ]
    lost = sum(row["needs_reauth"] + row["quarantined"] for row in facts.grants)
    return Section(
        "grants",
        "Grants",
        "Which connections lose grants, and what could still be done in people's names?",
        "grant_health, who_could_have",
        [
            Table("Events of grants", health, facts.grants),
            Table("Live grants now", reach, facts.reach),
        ],
        verdict=Verdict(f"{lost} grant{'s' if lost > 1 else ''} can no longer be used without the user.", bad=True)
        if lost
        else None,
    )


def _record(facts: ReportFacts) -> Section:
    columns = [
        *(Cell("kind", "gap"), Cell("chain_id", "chain", code=True), Cell("seq", "number", number=True)),
        *(Cell("occurred_at", "time (UTC)"), Cell("detail", "what")),
    ]
    unused = [
        *(Cell("connection", "connection"), Cell("agent_id", "agent")),
        *(Cell("n", "tokens", number=True), Cell("last_at", "last (UTC)")),
    ]
    verdict = (
        Verdict(
            f"{facts.gap_count:,} gap{'s' if facts.gap_count > 1 else ''}: events are missing, were changed, or nobody noted them. "
            "Run cab audit verify-chain.",
            bad=True,
        )
        if facts.gap_count
        else Verdict(
            f"{facts.verified:,} hashes were made again, and the chains of events have no gap. {_of_ends(facts)}",
        )
    )
    return Section(
        "record",
        "Is the record whole?",
        "Is any event missing or out of its place, and which tokens were never reported used?",
        "events_raw, issued_without_outcome",
        [
            *([Table(_cut("Gaps", facts.gaps), columns, facts.gaps)] if facts.gaps else []),
            Table(_cut("Tokens without a report of their use", facts.unused), unused, facts.unused),
        ],
        verdict=verdict,
    )


def _of_ends(facts: ReportFacts) -> str:
    running = facts.open_chains - facts.quiet_chains
    said = [f"{running:,} chain{'' if running == 1 else 's'} still open: their processes may be running."]
    if facts.quiet_chains:
        said.append(f"{facts.quiet_chains:,} ended without closing: what followed may have been removed.")
    if facts.noted_at is None:
        said.append("Not held against signed heads: whether a chain's end, or a whole chain, was removed is not known.")
    else:
        said.append(f"Held against the signed heads, the last of {_minute(facts.noted_at)} UTC.")
    return " ".join(said)


def _arrival(facts: ReportFacts) -> Section:
    parts = (Part("issued", "median"), Part("asked", "99th percentile"))
    columns = [
        Column(row["hour"].astimezone(UTC).strftime("%b %d, %H:00"), (row["median_ms"], row["p99_ms"]))
        for row in facts.freshness
    ]
    cells = [
        *(
            Cell("hour", "hour (UTC)"),
            Cell("events", "events", number=True),
            Cell("median_ms", "median ms", number=True),
        ),
        *(Cell("p99_ms", "99 % ms", number=True), Cell("max_ms", "slowest ms", number=True)),
    ]
    return Section(
        "arrival",
        "How soon events arrive",
        "How many milliseconds pass from a decision to its row?",
        "freshness",
        [Table("The same numbers as a table", cells, facts.freshness, folded=True)],
        lines("Milliseconds from decision to row, by hour", parts, columns, unit=" ms") if columns else None,
        parts if columns else (),
    )


def _with_short_keys(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [
        row
        | {
            "user": shortened(text_of(row["subject_key"]), _KEY_SHOWN),
            "txn": shortened(text_of(row["txn"]), _KEY_SHOWN),
        }
        for row in rows
    ]


def _cut(caption: str, rows: Sequence[Row]) -> str:
    return f"{caption}, the first {LISTED}" if len(rows) == LISTED else caption


def _minute(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")

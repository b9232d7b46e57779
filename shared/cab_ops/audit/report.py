"""What the report shows, asked of the same views that analysts use, in one period and, if wanted, for one tenant.

Whether the record is whole is asked as `cab audit verify-chain` asks it, and is of all tenants: chains belong to processes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cab_ops.audit.heads import LONGEST_PAUSE, Notes, verify_beside
from cab_ops.audit.questions import MISMATCHES, AuditTables, Question, Row

NEVER_CUT: Final = 100_000
LISTED: Final = 25  # rows of a table in the report; what is cut is said
_PERIOD: Final = ("since", "until", "tenant", "limit")

DECISIONS: Final = Question(
    """
    SELECT
      TIMESTAMP_TRUNC(occurred_at, HOUR) AS hour,
      CASE
        WHEN outcome = 'issued' THEN 'issued'
        WHEN reason_code IN ('confirmation_required', 'authorization_pending') THEN 'asked'
        WHEN outcome = 'failed' THEN 'failed'
        ELSE 'refused'
      END AS kind,
      COUNT(*) AS n
    FROM events_between(@since, @until)
    WHERE event_type = 'exchange.decided'
      AND (@tenant IS NULL OR tenant = @tenant)
    GROUP BY hour, kind
    ORDER BY hour, kind
    """,
    ("since", "until", "tenant"),
)

PEOPLE: Final = Question(
    """
    SELECT COUNT(*) AS events, COUNT(DISTINCT subject_key) AS users, COUNT(DISTINCT actor.agent_id) AS agents
    FROM events_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
    """,
    ("since", "until", "tenant"),
)

ACTIONS: Final = Question(
    """
    SELECT actor.agent_id AS agent_id, action, MAX(tool.effect) AS effect, COUNT(*) AS requests,
           COUNTIF(outcome = 'issued') AS issued, COUNTIF(outcome != 'issued') AS refused,
           COUNT(DISTINCT subject_key) AS users
    FROM events_between(@since, @until)
    WHERE event_type = 'exchange.decided' AND action IS NOT NULL
      AND (@tenant IS NULL OR tenant = @tenant)
    GROUP BY agent_id, action
    ORDER BY requests DESC, agent_id, action
    LIMIT @limit
    """,
    _PERIOD,
)

REASONS: Final = Question(
    """
    SELECT reason_code, SUM(refusals) AS n, COUNT(DISTINCT subject_key) AS users, COUNT(DISTINCT agent_id) AS agents,
           MAX(occurred_at) AS last_at
    FROM refusals_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND COALESCE(reason_code, '') NOT IN ('confirmation_required', 'authorization_pending')
    GROUP BY reason_code
    ORDER BY n DESC, reason_code
    LIMIT @limit
    """,
    _PERIOD,
)

RULES: Final = Question(
    """
    SELECT rule, reason_code, COUNT(*) AS n, MAX(occurred_at) AS last_at
    FROM refusals_between(@since, @until), UNNEST(determining_rules) AS rule
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND reason_code NOT IN ('confirmation_required', 'authorization_pending')
    GROUP BY rule, reason_code
    ORDER BY n DESC, rule
    LIMIT @limit
    """,
    _PERIOD,
)

SUSPECTS: Final = Question(
    """
    SELECT occurred_at, subject_key, agents, score, attempts, destructive, writes, objects, users_no, issued_after, read_before, txn
    FROM injection_suspects_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND attempts > 0
    ORDER BY score DESC, occurred_at DESC
    LIMIT @limit
    """,
    _PERIOD,
)

MISMATCH_COUNT: Final = Question(
    """
    SELECT COUNT(*) AS n
    FROM intent_mismatches_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
    """,
    ("since", "until", "tenant"),
)

CONFIRMATIONS: Final = Question(
    """
    SELECT status, COUNT(*) AS n, COUNTIF(used_at IS NOT NULL) AS used,
           APPROX_QUANTILES(seconds_to_answer, 2)[OFFSET(1)] AS median_s
    FROM confirmations_between(@since, @until)
    WHERE asked_at IS NOT NULL AND (@tenant IS NULL OR tenant = @tenant)
    GROUP BY status
    ORDER BY n DESC, status
    """,
    ("since", "until", "tenant"),
)

GRANTS: Final = Question(
    """
    SELECT connection, SUM(connected) AS connected, SUM(not_lasting) AS not_lasting,
           SUM(refreshed) AS refreshed, SUM(recovered) AS recovered,
           SUM(needs_reauth) AS needs_reauth, SUM(revoked) AS revoked, SUM(not_revoked_upstream) AS not_revoked_upstream,
           SUM(quarantined) AS quarantined, SUM(failed) AS failed
    FROM grant_health_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
    GROUP BY connection
    ORDER BY connection
    LIMIT @limit
    """,
    _PERIOD,
)

UNUSED: Final = Question(
    """
    SELECT connection, agent_id, COUNT(*) AS n, MAX(occurred_at) AS last_at
    FROM issued_without_outcome_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
    GROUP BY connection, agent_id
    ORDER BY n DESC, connection, agent_id
    LIMIT @limit
    """,
    _PERIOD,
)

REACH: Final = Question(
    """
    SELECT connection, COUNT(DISTINCT subject_key) AS users, COUNT(DISTINCT agent_id) AS agents,
           COUNT(DISTINCT IF(agent_id IS NULL, subject_key, NULL)) AS never_used
    FROM who_could_have
    WHERE (@tenant IS NULL OR tenant = @tenant)
    GROUP BY connection
    ORDER BY connection
    LIMIT @limit
    """,
    ("tenant", "limit"),
)

FRESHNESS: Final = Question(
    """
    SELECT hour, events, median_ms, p99_ms, max_ms
    FROM freshness_between(@since, @until)
    ORDER BY hour
    """,
    ("since", "until"),
)


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Rows by question. `decisions` has `hour`, `kind` (issued, asked, refused, failed), `n`; empty hours have no row.

    `gaps` are the first `LISTED` of `gap_count` findings of `verify-chain`.
    """

    since: datetime
    until: datetime
    tenant: str | None
    people: Row
    decisions: list[Row]
    actions: list[Row]
    reasons: list[Row]
    rules: list[Row]
    suspects: list[Row]  # never cut
    mismatches: list[Row]
    mismatch_count: int
    confirmations: list[Row]
    grants: list[Row]
    unused: list[Row]
    reach: list[Row]
    gaps: list[Row]
    gap_count: int
    verified: int  # events whose hash was made again
    open_chains: int
    quiet_chains: int  # ended without closing: what followed may have been removed
    noted_at: datetime | None  # of the last signed note of heads that this was held against
    freshness: list[Row]


def gather(
    tables: AuditTables,
    *,
    since: datetime,
    until: datetime,
    tenant: str | None,
    notes: Notes | None = None,
    longest_pause: timedelta = LONGEST_PAUSE,
) -> ReportFacts:
    """All of the report's rows. Raises: as `AuditTables.ask`."""

    def ask(question: Question, limit: int = LISTED) -> list[Row]:
        return list(tables.ask(question, since=since, until=until, tenant=tenant, limit=limit))

    verdict, quiet = verify_beside(
        tables, notes, since=since, until=until, now=datetime.now(UTC), longest_pause=longest_pause
    )
    return ReportFacts(
        since=since,
        until=until,
        tenant=tenant,
        people=ask(PEOPLE)[0],
        decisions=ask(DECISIONS),
        actions=ask(ACTIONS),
        reasons=ask(REASONS),
        rules=ask(RULES),
        suspects=ask(SUSPECTS, NEVER_CUT),
        mismatches=ask(MISMATCHES),
        mismatch_count=ask(MISMATCH_COUNT)[0]["n"],
        confirmations=ask(CONFIRMATIONS),
        grants=ask(GRANTS),
        unused=ask(UNUSED),
        reach=ask(REACH),
        gaps=[asdict(finding) for finding in verdict.findings[:LISTED]],
        gap_count=len(verdict.findings),
        verified=verdict.recomputed,
        open_chains=sum(not head.closed for head in verdict.heads),
        quiet_chains=len(quiet),
        noted_at=notes.last if notes else None,
        freshness=ask(FRESHNESS),
    )

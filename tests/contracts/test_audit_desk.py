"""Fifteen questions that analysts really ask, on two weeks of an organisation of which the truth is known: each one query."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contracts import driven
from tests.contracts.bigquery import Record
from tests.contracts.driven import AGENTS, INJECTION_DAY, NEVER_USED, OUTAGE_DAY, STOLEN, TEAMS, THEFT_DAY, Organisation
from tests.support.world import deployment

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.google_cloud.bigquery.configuration_table import configuration_row, write
from cab_ops.audit.questions import AuditTables
from cab_ops.audit.replay import replay
from cab_ops.audit.verification import verify

PROJECT, DATASET = Record.PROJECT, Record.DATASET
DOCS = Path(__file__).resolve().parents[2] / "docs"
AUDIT = (DOCS / "audit.md").read_text("utf-8")


@pytest.fixture(scope="module")
def organisation(tmp_path_factory: pytest.TempPathFactory) -> Organisation:
    return Organisation(driven.now(), tmp_path_factory.mktemp("two-weeks"))


@pytest.fixture(scope="module")
def tables(record: Record, organisation: Organisation) -> Iterator[Any]:
    with record.of(organisation.rows) as tables:
        for number, day in enumerate((0, driven.CHANGE_DAY)):  # as `cab config export` does at each deploy
            deployed = deployment(organisation.versions[number])
            rules = CedarPolicyEngine(deployed).rule_ids
            at = organisation.start + timedelta(days=day)
            row = configuration_row(deployed, rules=rules, commit=f"commit-{number + 1}", at=at)
            assert write(tables, DATASET, row) == []
        yield tables


def ask(tables: Any, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in tables.query_and_wait(sql.replace("FROM ", f"FROM `{PROJECT}`.{DATASET}."))]


def day_of(organisation: Organisation, day: int) -> str:
    return (organisation.start + timedelta(days=day)).astimezone(UTC).isoformat()


def test_the_organisation_is_as_large_as_it_says(organisation: Organisation) -> None:
    truth = organisation.truth
    assert sum(truth.decisions.values()) >= driven.DECISIONS
    assert truth.flips > 0
    assert truth.outage_refusals > 0
    assert truth.unreported
    assert len(truth.answers) == 2
    assert len(truth.calls) == 4
    assert truth.refused_by.keys() >= {("acme", word) for word in ("policy", "limit", "outage", "task", "grant")}


def test_1_who_did_what_through_whom(tables: Any, organisation: Organisation) -> None:
    answer = ask(tables, "SELECT tenant, agent_id, action, SUM(issued) FROM actions_by_user_and_agent GROUP BY 1, 2, 3")
    found = Counter({row[:3]: row[3] for row in answer if row[3]})
    assert found == organisation.truth.issued


def test_1_as_a_row_for_each_decision_with_who_agreed_and_what_came_of_it(
    tables: Any, organisation: Organisation
) -> None:
    truth = organisation.truth
    (documented,) = re.findall(r"```sql\n(WITH decided.*?)\n```", AUDIT, flags=re.DOTALL)
    end = organisation.start + timedelta(days=driven.DAYS)
    period = f"(TIMESTAMP '{organisation.start}', TIMESTAMP '{end}')"
    asked = re.sub(r"\(TIMESTAMP_SUB\(.*?DAY\), CURRENT_TIMESTAMP\(\)\)", period, documented)
    rows = [dict(row) for row in tables.query_and_wait(asked.replace("cab_audit.", f"`{PROJECT}`.{DATASET}."))]
    issued = [row for row in rows if row["outcome"] == "issued"]
    assert len(issued) == sum(n for (*_, action), n in truth.issued.items() if action is not None)
    of_calls = Counter(row["what_came"] for row in rows)
    assert of_calls["rejected"] == truth.calls["rejected", None]
    assert of_calls["unknown"] == truth.calls["unknown", None] + truth.calls["unknown", "no_outcome"]
    silent = Counter((row["txn"], row["action"], row["identifier"]) for row in issued if row["what_came"] is None)
    assert silent < truth.unreported
    assert silent.total() == truth.unreported.total() - truth.calls["unknown", "no_outcome"]
    assert Counter(row["users_word"] for row in issued if row["users_word"]) == {"approved": truth.answers["approved"]}
    assert sum(row["users_word"] == "refused" for row in rows) == truth.answers["refused"]


def test_2_which_attacks_were_there_the_worst_first(tables: Any, organisation: Organisation) -> None:
    answer = ask(
        tables,
        "SELECT txn, score, attempts, destructive, objects, read_before, seconds <= 60 FROM injection_suspects "
        "WHERE attempts > 0 ORDER BY score DESC",
    )
    assert answer[0][0] == organisation.truth.injection_txn
    assert answer[0][2:] == (12, 12, 12, "crm.deal.read deal/poisoned", True)
    assert {row[0]: row[2] for row in answer} == dict(organisation.truth.mismatches)
    assert answer[0][1] > 2 * answer[1][1]  # and not lost among what is merely clumsy


def test_3_which_agents_asked_for_more_than_their_users_did(tables: Any, organisation: Organisation) -> None:
    answer = ask(tables, "SELECT txn, COUNT(*) FROM intent_mismatches GROUP BY txn")
    assert dict(answer) == dict(organisation.truth.mismatches)
    during = ask(
        tables,
        f"SELECT COUNT(*) FROM intent_mismatches WHERE occurred_at >= '{day_of(organisation, OUTAGE_DAY)}' "
        f"AND occurred_at < '{day_of(organisation, OUTAGE_DAY + 1)}'",
    )
    assert during == [(0,)]  # an outage makes no attacks of harmless reads


def test_4_what_refused_and_whose_agent_was_it(tables: Any, organisation: Organisation) -> None:
    answer = ask(tables, "SELECT tenant, decided_by, SUM(refusals) FROM refusals GROUP BY 1, 2")
    assert Counter({row[:2]: row[2] for row in answer}) == organisation.truth.refused_by
    rules = ask(tables, "SELECT decided_by FROM refusals WHERE ARRAY_LENGTH(determining_rules) > 0 GROUP BY 1")
    assert rules == [("policy",)]  # only rules that decided
    owners = ask(tables, "SELECT DISTINCT agent_id, owner FROM refusals WHERE agent_id IS NOT NULL")
    assert set(owners) <= {(agent, f"{agent}@owners.example") for agents in AGENTS.values() for agent in agents}
    assert ("sales", "sales@owners.example") in owners


def test_5_who_could_be_reached_with_a_stolen_key(tables: Any, organisation: Organisation) -> None:
    begin, end = day_of(organisation, THEFT_DAY), day_of(organisation, THEFT_DAY + 1)
    answer = ask(
        tables,
        f"SELECT DISTINCT subject_key FROM reach WHERE agent_id = '{STOLEN}' "
        f"AND from_at < '{end}' AND (until_at IS NULL OR until_at >= '{begin}')",
    )
    assert {user for (user,) in answer} == organisation.truth.stolen_users


def test_6_what_may_be_taken_off_an_agents_list(tables: Any, organisation: Organisation) -> None:
    answer = ask(tables, "SELECT tenant, agent_id, action FROM least_privilege WHERE times = 0")
    allowed = {
        (tenant, agent, action)
        for tenant, agents in AGENTS.items()
        for agent in agents
        for action in (*driven.OBJECTS, NEVER_USED)
    }
    assert set(answer) == allowed - set(organisation.truth.issued)


def test_7_which_connections_lose_grants_and_why_and_when_was_a_provider_away(
    tables: Any, organisation: Organisation
) -> None:
    answer = ask(
        tables,
        "SELECT day, connection, needs_reauth, causes, outages FROM grant_health WHERE needs_reauth > 0 OR outages > 0",
    )
    assert [row[1:] for row in answer] == [
        ("crm", 1, ["needs_reauth_confirmed: http 400 invalid_grant"], organisation.truth.outage_refusals)
    ]
    assert answer[0][0].isoformat() == day_of(organisation, OUTAGE_DAY)


def test_8_how_much_does_each_team_do(tables: Any, organisation: Organisation) -> None:
    answer = ask(tables, "SELECT day, team, agent_id, decisions, tokens FROM volume")
    assert all(TEAMS[agent] == team for _, team, agent, _, _ in answer)
    days = {(day - organisation.start).days: day for day, *_ in answer}
    assert len(days) == driven.DAYS
    found = {
        ((day - organisation.start).days, agent): (decisions, tokens) for day, _, agent, decisions, tokens in answer
    }
    truth = organisation.truth
    assert found == {key: (n, len(truth.tokens.get(key, ()))) for key, n in truth.decisions.items()}


def test_9_what_was_never_seen_before(tables: Any, organisation: Organisation) -> None:
    answer = ask(
        tables,
        f"SELECT who, what FROM first_seen WHERE kind = 'agent_network' "
        f"AND first_at >= '{day_of(organisation, INJECTION_DAY + 1)}'",
    )
    assert answer == [(STOLEN, driven.THEFT_NETWORK)]


def test_10_what_came_of_each_call(tables: Any, organisation: Organisation) -> None:
    answer = ask(tables, "SELECT outcome, cause, COUNT(*) FROM calls GROUP BY 1, 2")
    assert Counter({row[:2]: row[2] for row in answer}) == organisation.truth.calls


def test_11_of_which_tokens_does_nobody_say_what_came(tables: Any, organisation: Organisation) -> None:
    answer = ask(tables, "SELECT txn, action, identifier FROM issued_without_outcome")
    assert Counter(answer) == organisation.truth.unreported


def test_12_what_do_users_answer_when_they_are_asked(tables: Any, organisation: Organisation) -> None:
    answer = ask(tables, "SELECT status, COUNT(*), MAX(seconds_to_answer) FROM confirmations GROUP BY 1")
    assert {row[0]: row[1] for row in answer} == dict(organisation.truth.answers)
    assert {row[2] for row in answer} == {7}


def test_13_is_the_record_whole(tables: Any) -> None:
    assert ask(tables, "SELECT gap, chain_id FROM chain_gaps") == []
    assert ask(tables, "SELECT orphan, event_id FROM orphans") == []
    assert ask(tables, "SELECT event_id FROM events WHERE contested") == []


def test_14_what_did_one_login_lead_to(tables: Any, organisation: Organisation) -> None:
    txns = max(organisation.truth.sessions.values(), key=lambda txns: (len(txns), *sorted(txns)))
    assert len(txns) > 1
    ((session,),) = ask(
        tables, f"SELECT login.session FROM events WHERE event_type = 'assertion.minted' AND txn = '{min(txns)}'"
    )
    answer = ask(
        tables,
        f"SELECT DISTINCT txn FROM events WHERE event_type = 'assertion.minted' AND login.session = '{session}'",
    )
    assert {txn for (txn,) in answer} == txns


def test_15_which_configuration_decided_and_what_would_the_candidates_flip(
    tables: Any, organisation: Organisation
) -> None:
    versions = [deployment(folder).policy_version for folder in organisation.versions]
    answer = ask(tables, "SELECT policy_version, first_commit FROM policy_versions ORDER BY first_seen_at")
    assert answer == [(versions[0], "commit-1"), (versions[1], "commit-2")]
    answer = ask(
        tables,
        "SELECT policy.version, COUNTIF(policy.shadow_differs), COUNTIF(policy.shadow_differs IS NULL) FROM events "
        "WHERE event_type = 'exchange.decided' AND policy.version IS NOT NULL GROUP BY 1",
    )
    assert {row[0]: row[1] for row in answer} == {versions[0]: 0, versions[1]: organisation.truth.flips}


def test_a_replay_of_the_record_flips_what_the_candidates_said_and_nothing_under_what_decided(
    organisation: Organisation, tmp_path: Path
) -> None:
    """The candidates, judged beside each decision, and the replay of the record judge alike."""
    decided = [
        row["event_json"]
        for row in organisation.rows
        if row["event_type"] == "exchange.decided" and row.get("policy", {}).get("shadow_version")
    ]
    proposed = tmp_path / "proposed"
    shutil.copytree(organisation.versions[1], proposed, ignore=shutil.ignore_patterns("policies"))
    (proposed / "policies_candidate").rename(proposed / "policies")
    for folder, flips in ((organisation.versions[1], 0), (proposed, organisation.truth.flips)):
        deployed = deployment(folder)
        answer = replay(decided, deployed, CedarPolicyEngine(deployed))
        assert (answer.decisions, answer.unreadable) == (len(decided), 0)
        assert answer.flips + answer.unsure == flips


def test_each_transaction_is_a_flat_row_of_numbers_and_has_no_text(tables: Any, organisation: Organisation) -> None:
    columns = tables.get_table(f"{PROJECT}.{DATASET}.transaction_features").schema
    assert {column.name for column in columns if column.field_type == "STRING"} == {"tenant", "txn"}
    assert {column.mode for column in columns} == {"NULLABLE"}
    truth = organisation.truth
    (injected,) = ask(
        tables,
        "SELECT requests, reads, destructives, beyond, beyond_destructive, beyond_objects, issued, refused_by_task, agents, questions "
        f"FROM transaction_features WHERE txn = '{truth.injection_txn}'",
    )
    assert injected == (13, 1, 12, 12, 12, 12, 1, 12, 1, 0)
    (sums,) = ask(
        tables,
        "SELECT COUNT(*), SUM(requests), SUM(issued), SUM(refused_by_outage), SUM(beyond), SUM(yes), SUM(no), SUM(unknown), "
        "SUM(candidates_differ) FROM transaction_features",
    )
    assert sums == (
        sum(map(len, truth.sessions.values())) + truth.connected,  # a consent on the pages is one too
        truth.decisions.total() - truth.call_tokens,
        truth.issued.total() - truth.call_tokens,
        truth.outage_refusals,
        sum(truth.mismatches.values()),
        truth.answers["approved"],
        truth.answers["refused"],
        truth.calls["unknown", None],
        truth.flips,
    )


PANELS = json.loads((DOCS / "grafana-audit.json").read_text("utf-8"))["panels"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_each_panel_of_the_dashboard_is_answered_and_asks_only_for_its_time_range(
    panel: dict[str, Any], tables: Any, organisation: Organisation
) -> None:
    """Filled in as Grafana does."""
    (target,) = panel["targets"]
    assert "${__from:date:iso}', TIMESTAMP '${__to:date:iso}')" in target["rawSql"]
    asked = re.findall(r"\$\{dataset\}\.(\w+)\(", target["rawSql"])
    assert len(asked) == target["rawSql"].count("${dataset}") == 1
    assert asked[0].endswith("_between")
    values = {
        "${__from:date:iso}": organisation.start.isoformat(),
        "${__to:date:iso}": (organisation.start + timedelta(days=driven.DAYS)).isoformat(),
        "${dataset}": f"`{PROJECT}`.{DATASET}",
    }
    sql = target["rawSql"]
    for name, value in values.items():
        sql = sql.replace(name, value)
    answer = [dict(row) for row in tables.query_and_wait(sql)]
    assert bool(answer) != (panel["title"] == "Is the record whole?")
    if panel["type"] == "timeseries":
        assert next(iter(answer[0])) == "time"
    if panel["title"] == "Likely attacks, the worst first":
        assert answer[0]["txn"] == organisation.truth.injection_txn
    if panel["title"] == "Decisions":
        sums = Counter({name: sum(row[name] for row in answer) for name in ("issued", "asked", "refused", "other")})
        assert sums.total() == sum(organisation.truth.decisions.values())


def test_a_row_a_tail_a_chain_and_a_day_that_were_deleted_are_found_and_named(
    tables: Any, organisation: Organisation
) -> None:
    """By somebody who may write the table, all at once; the last test here, for the record is no longer whole then."""
    since, until = organisation.start, organisation.start + timedelta(days=driven.DAYS)
    asked = AuditTables(tables, DATASET)
    noted = verify(asked, since=since, until=until)
    assert noted.findings == []
    assert noted.events == noted.recomputed == len(organisation.rows)
    days = [
        [head for head in noted.heads if head.occurred_at and (head.occurred_at - organisation.start).days == day]
        for day in range(driven.DAYS)
    ]
    row, tail, chain = (max(days[day], key=lambda head: head.seq) for day in (2, 3, 5))
    of = "DELETE FROM events_raw WHERE occurred_at >= '{begin}' AND occurred_at < '{end}' AND {which}"
    for which in (
        f"chain.id = '{row.chain_id}' AND chain.seq = 2",
        f"chain.id = '{tail.chain_id}' AND chain.seq > {tail.seq - 3}",
        f"chain.id = '{chain.chain_id}'",
        f"TIMESTAMP_TRUNC(occurred_at, DAY) = '{day_of(organisation, 8)}'",
    ):
        ask(tables, of.format(begin=day_of(organisation, 0), end=day_of(organisation, driven.DAYS), which=which))

    found = verify(asked, since=since, until=until, noted=noted.heads).findings

    assert {(finding.kind, finding.chain_id, finding.seq) for finding in found} == {
        ("missing", row.chain_id, 3),
        ("head_changed", tail.chain_id, tail.seq),
        ("chain_removed", chain.chain_id, chain.seq),
        ("day_removed", None, None),
        *(("chain_removed", head.chain_id, head.seq) for head in days[8]),
    }
    gaps = ask(tables, "SELECT gap, chain_id FROM chain_gaps")
    assert set(gaps) == {("missing", row.chain_id), ("ended_without_close", tail.chain_id)}
    assert ask(tables, "SELECT orphan FROM orphans") != []  # and what followed from them hangs in the air

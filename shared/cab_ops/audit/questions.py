"""Questions to the audit dataset. SQL is fixed text; what people type travels as query parameters only, never as SQL."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from google.api_core.exceptions import BadRequest, Forbidden, GoogleAPICallError, NotFound, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from requests.exceptions import RequestException

from cab.ports import Unavailable

TIMEOUT_S: Final = 60.0
_WHAT: Final = "audit tables"

Row = dict[str, Any]
Parameter = str | int | datetime | Sequence[str] | None
_TYPES: Final[Mapping[type, str]] = {str: "STRING", int: "INT64", datetime: "TIMESTAMP"}


class QuestionRefused(Exception):
    """BigQuery understood and would not answer: no such table, no permission. The message says what to look at."""


@dataclass(frozen=True, slots=True)
class Question:
    """Standard SQL over the views and their functions by bare name. Every parameter it uses is bound.

    Absent ones are NULL of their type, but for `until`, which then bounds nothing.

    Whoever asks waits `timeout_s` at most.
    """

    sql: str
    parameters: tuple[str, ...] = ("since", "until", "tenant", "limit")
    timeout_s: float = TIMEOUT_S


_NEVER: Final = datetime(9000, 1, 1, tzinfo=UTC)
_FUNCTION: Final = re.compile(r"(?<![.`\w])(\w+_between)\(")
_PARAMETER_TYPES: Final[Mapping[str, type]] = {
    "since": datetime,
    "until": datetime,
    "after": datetime,
    "limit": int,
}  # others are text

# The beginning of a user's key or of a txn is enough: tables show keys shortened.
EVENTS: Final = Question(
    """
    SELECT occurred_at, event_type, subject_key, actor.agent_id AS agent_id, action, intent.identifier AS identifier,
           outcome, decision, reason_code, txn, event_id
    FROM events_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@user IS NULL OR STARTS_WITH(subject_key, @user))
      AND (@txn IS NULL OR STARTS_WITH(txn, @txn))
      AND (@agent IS NULL OR actor.agent_id = @agent)
      AND (@decision IS NULL OR decision = @decision)
      AND (@type IS NULL OR event_type = @type)
    ORDER BY occurred_at DESC, event_id DESC
    LIMIT @limit
    """,
    ("since", "until", "tenant", "user", "txn", "agent", "decision", "type", "limit"),
)

# Whole events: a story is told from all of its facts. What was confirmed in another transaction belongs to it.
TRACE: Final = Question(
    """
    SELECT *
    FROM events_between(@since, @until)
    WHERE (
        STARTS_WITH(txn, @txn)
        OR confirmation_id IN (
          SELECT confirmation_id FROM events_between(@since, @until) WHERE STARTS_WITH(txn, @txn) AND confirmation_id IS NOT NULL
        )
      )
    ORDER BY occurred_at, event_id
    LIMIT @limit
    """,
    ("since", "until", "txn", "limit"),
)

ACTIONS: Final = Question(
    """
    SELECT day, tenant, subject_key, agent_id, connection, action, effect, requests, issued, executed, refused, failed,
           unknown_outcome, confirmed_by_user, last_at
    FROM actions_by_user_and_agent_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@user IS NULL OR STARTS_WITH(subject_key, @user))
      AND (@agent IS NULL OR agent_id = @agent)
    ORDER BY day DESC, requests DESC, subject_key, agent_id, action
    LIMIT @limit
    """,
    ("since", "until", "tenant", "user", "agent", "limit"),
)

REFUSALS: Final = Question(
    """
    SELECT occurred_at, event_type, subject_key, agent_id, client_id, connection, action, identifier, reason_code,
           determining_rules, refusals, caller_ip_prefix, policy_version, txn, event_id
    FROM refusals_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@user IS NULL OR STARTS_WITH(subject_key, @user))
      AND (@agent IS NULL OR agent_id = @agent)
      AND (@reason IS NULL OR reason_code = @reason)
    ORDER BY occurred_at DESC, event_id DESC
    LIMIT @limit
    """,
    ("since", "until", "tenant", "user", "agent", "reason", "limit"),
)

MISMATCHES: Final = Question(
    """
    SELECT occurred_at, subject_key, agent_id, reason_code, comparison, connection, action, effect, identifier,
           intent_trigger, task_id, stated_reason, txn, event_id
    FROM intent_mismatches_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@user IS NULL OR STARTS_WITH(subject_key, @user))
      AND (@agent IS NULL OR agent_id = @agent)
    ORDER BY occurred_at DESC, event_id DESC
    LIMIT @limit
    """,
    ("since", "until", "tenant", "user", "agent", "limit"),
)

CONFIRMATIONS: Final = Question(
    """
    SELECT asked_at, subject_key, agent_id, connection, action, identifier, status, seconds_to_answer, decided_at, used_at,
           confirmation_id
    FROM confirmations_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@user IS NULL OR STARTS_WITH(subject_key, @user))
    ORDER BY COALESCE(asked_at, decided_at) DESC, confirmation_id
    LIMIT @limit
    """,
    ("since", "until", "tenant", "user", "limit"),
)

GRANTS: Final = Question(
    """
    SELECT day, tenant, connection, provider, grants, connected, not_lasting, refreshed, recovered, needs_reauth, revoked,
           not_revoked_upstream, quarantined, failed, outages, causes
    FROM grant_health_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@connection IS NULL OR connection = @connection)
    ORDER BY day DESC, connection
    LIMIT @limit
    """,
    ("since", "until", "tenant", "connection", "limit"),
)

CALLS: Final = Question(
    """
    SELECT occurred_at, subject_key, agent_id, connection, action, identifier, method, host, path_template, attempts, outcome,
           cause, upstream_status, upstream_request_id, sent_as_decided, request_digest, txn, call_id
    FROM calls_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@user IS NULL OR STARTS_WITH(subject_key, @user))
      AND (@agent IS NULL OR agent_id = @agent)
      AND (@outcome IS NULL OR outcome = @outcome)
    ORDER BY occurred_at DESC, call_id
    LIMIT @limit
    """,
    ("since", "until", "tenant", "user", "agent", "outcome", "limit"),
)

UNUSED: Final = Question(
    """
    SELECT occurred_at, subject_key, agent_id, connection, action, identifier, token_kind, token_expires_at, txn, event_id
    FROM issued_without_outcome_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@user IS NULL OR STARTS_WITH(subject_key, @user))
    ORDER BY occurred_at DESC, event_id DESC
    LIMIT @limit
    """,
    ("since", "until", "tenant", "user", "limit"),
)

# Chains are followed from their start.
GAPS: Final = Question(
    """
    SELECT gap, function_name, chain_id, after_seq, before_seq, missing_events, found_at_event, occurred_at
    FROM chain_gaps_between(TIMESTAMP_SUB(@since, INTERVAL 30 DAY), @until)
    WHERE occurred_at >= @since
    ORDER BY IF(gap IN ('open', 'ended_without_close'), 1, 0), occurred_at DESC, chain_id
    LIMIT @limit
    """,
    ("since", "until", "limit"),
)

FRESHNESS: Final = Question(
    """
    SELECT hour, events, median_ms, p99_ms, max_ms, last_row_at
    FROM freshness_between(@since, @until)
    ORDER BY hour DESC
    LIMIT @limit
    """,
    ("since", "until", "limit"),
)

WHO_COULD_HAVE: Final = Question(
    """
    SELECT tenant, subject_key, connection, agent_id, tokens, last_token_at, grant_since, grant_last_seen_at, grant_id
    FROM who_could_have_between(@since, @until)
    WHERE (@tenant IS NULL OR tenant = @tenant)
      AND (@user IS NULL OR STARTS_WITH(subject_key, @user))
      AND (@connection IS NULL OR connection = @connection)
    ORDER BY connection, subject_key, agent_id
    LIMIT @limit
    """,
    ("since", "until", "tenant", "user", "connection", "limit"),
)

EVENT: Final = Question(
    """
    SELECT * FROM events_between(@since, @until)
    WHERE (event_id = @event OR STARTS_WITH(txn, @event))
    ORDER BY occurred_at DESC, event_id DESC
    LIMIT @limit
    """,
    ("since", "until", "event", "limit"),
)


class AuditTables:
    """One dataset. Honours BIGQUERY_EMULATOR_HOST. Blocking: for commands, not for functions."""

    def __init__(self, client: Any, dataset: str) -> None:
        self._client = client
        self._dataset = f"{client.project}.{dataset}"

    @property
    def client(self) -> Any:
        """The `google.cloud.bigquery.Client` behind it, for what is no question."""
        return self._client

    def select(self, sql: str, *, limit: int, **values: Parameter) -> Iterator[Row]:
        """The rows of a query that people wrote, over the views and their functions by bare name, with `values` as parameters.

        Only what reads is run: asked of BigQuery, not guessed.
        Raises: QuestionRefused, with BigQuery's own words on the query; Unavailable.
        """
        sql = self._in_full(sql)
        bound = [_bound(name, value) for name, value in values.items() if re.search(rf"@{name}\b", sql)]
        config = bigquery.QueryJobConfig(default_dataset=self._dataset, query_parameters=bound)
        dry = bigquery.QueryJobConfig(
            dry_run=True, use_query_cache=False, default_dataset=self._dataset, query_parameters=bound
        )
        with _errors(self._dataset, own_query=True):
            job = self._client.query(sql, job_config=dry, retry=None, job_retry=None, timeout=TIMEOUT_S)
            if job.statement_type != "SELECT":
                raise QuestionRefused("Only one SELECT statement is run here: the record is read, never written.")
            rows = self._client.query_and_wait(
                sql,
                job_config=config,
                retry=None,
                job_retry=None,
                api_timeout=TIMEOUT_S,
                wait_timeout=TIMEOUT_S,
                max_results=limit,
            )
            for row in rows:
                yield dict(row.items())

    def ask(self, question: Question, **values: Parameter) -> Iterator[Row]:
        """The rows of the answer, read page by page. Raises: QuestionRefused, Unavailable."""
        parameters = [_bound(name, values.get(name)) for name in question.parameters]
        sql = self._in_full(question.sql)
        config = bigquery.QueryJobConfig(query_parameters=parameters, default_dataset=self._dataset)
        with _errors(self._dataset):
            rows = self._client.query_and_wait(
                sql,
                job_config=config,
                retry=None,
                job_retry=None,
                api_timeout=question.timeout_s,
                wait_timeout=question.timeout_s,
            )
            for row in rows:
                yield dict(row.items())

    def _in_full(self, sql: str) -> str:
        """A default dataset is for tables; functions are named in full."""
        return _FUNCTION.sub(rf"`{self._dataset}`.\1(", sql)


def _bound(name: str, value: Parameter) -> Any:
    if name == "until" and value is None:
        value = _NEVER
    if isinstance(value, Sequence) and not isinstance(value, str):
        return bigquery.ArrayQueryParameter(name, "STRING", list(value))
    return bigquery.ScalarQueryParameter(name, _TYPES[_PARAMETER_TYPES.get(name, str)], value)


@contextmanager
def open_tables(project: str, dataset: str) -> Iterator[AuditTables]:
    """The dataset of a project, until the block ends. Raises: Unavailable without credentials."""
    emulated = bool(os.environ.get("BIGQUERY_EMULATOR_HOST"))
    anonymous: Any = AnonymousCredentials  # untyped
    with _errors(dataset):
        client = bigquery.Client(project=project, credentials=anonymous() if emulated else None)
    try:
        yield AuditTables(client, dataset)
    finally:
        client.close()


@contextmanager
def outages() -> Iterator[None]:
    """Whatever BigQuery's client raises where there is no answer, as ours. Raises: Unavailable."""
    try:
        yield
    except (GoogleAPICallError, GoogleAuthError, RetryError, RequestException, TimeoutError) as error:
        raise Unavailable(_WHAT) from error


@contextmanager
def _errors(dataset: str, *, own_query: bool = False) -> Iterator[None]:
    """BigQuery's errors as ours. Its messages quote the query: they are passed on only to who wrote it."""
    with outages():
        try:
            yield
        except (NotFound, BadRequest) as error:
            if own_query:
                raise QuestionRefused(_own_words(error)) from error
            # A function that is not there is a mistake in the query, to BigQuery.
            if isinstance(error, BadRequest) and "not found" not in error.message.lower():
                raise QuestionRefused(
                    f"{dataset} does not understand the question: its views are of another version."
                ) from error
            raise QuestionRefused(
                f"{dataset} has no such table, view or function: deploy Terraform, or name --dataset."
            ) from error
        except Forbidden as error:
            raise QuestionRefused(
                f"You may not read {dataset}: ask for roles/bigquery.dataViewer and jobUser."
            ) from error


def _own_words(error: GoogleAPICallError) -> str:
    """What BigQuery says about a query, without the request's URL that its client puts before it."""
    return (
        str(error.errors[0].get("message", "")) if error.errors else error.message.rpartition("prettyPrint=false: ")[2]
    )

"""`cab explain`: the path of a decision like a proof. Nothing is issued, counted or asked."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click
from pydantic import ValidationError

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.cedar.rules import Rule
from cab.adapters.configuration.loader import inspect_folder
from cab.adapters.configuration.problems import errors_among
from cab.domain.audit import EventType, Outcome, read_json
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import Reason
from cab_ops.audit.questions import Row
from cab_ops.cli.audit.options import dataset_option, since_option
from cab_ops.cli.cloud import json_option
from cab_ops.cli.dev import environment_of_stack
from cab_ops.cli.explain.proof import Proved, Recorded, proof_as_json, proof_as_text
from cab_ops.cli.explain.request import BadRequest, read_question
from cab_ops.configuration.places import Places
from cab_ops.explain.event import NotExplainable, explain_event
from cab_ops.explain.exchange import Explanation, Unreadable, explain

DEMO_FOLDER = Path("examples/acme")
EVENTS_AT_MOST = 20


class Unusable(click.ClickException):
    """The command cannot start from what it was given."""

    exit_code = 2


@dataclass(frozen=True)
class Configured:
    """A deployment's folder, loaded for explaining."""

    root: Path
    deployment: Deployment
    engine: CedarPolicyEngine
    places: Places
    environment: dict[str, str]
    unset: tuple[str, ...]

    def rules_of(self, explanation: Explanation) -> tuple[Rule, ...]:
        decision = explanation.judgement.decision if explanation.judgement else None
        return tuple(self.engine.rule(name) for name in decision.rules) if decision else ()

    def candidate_rules_of(self, explanation: Explanation) -> tuple[Rule, ...]:
        shadow = explanation.judgement.shadow if explanation.judgement else None
        judgement = explanation.judgement
        if shadow is None or judgement is None or judgement.intent is None:
            return ()
        decided = tuple(self.engine.rule(name, candidate=True) for name in shadow.rules)
        # Where none of them matched, those that might have are what one wants to read.
        return decided or self.engine.rules_about(judgement.intent.action.id, candidate=True)

    def unmatched_rules_of(self, explanation: Explanation) -> tuple[Rule, ...]:
        """The rules that speak of the action and did not decide."""
        judgement = explanation.judgement
        if judgement is None or judgement.decision is None or judgement.intent is None:
            return ()
        decided = judgement.decision.rules
        about = self.engine.rules_about(judgement.intent.action.id)
        return tuple(rule for rule in about if rule.id not in decided)


def load(folder: Path | None) -> Configured:
    """The folder with its variables from the environment, else from the running local stack, else as placeholders.

    Raises: Unusable.
    """
    environment = environment_of_stack() | os.environ
    root = folder or Path(environment.get("CAB_CONFIG_DIR", DEMO_FOLDER))
    inspection = inspect_folder(root, environment, unset="warning")
    errors = errors_among(inspection.problems)
    if inspection.deployment is None or errors:
        first = f" First: {errors[0]}." if errors else ""
        raise Unusable(f"{root} is no usable configuration: run `cab config validate {root}`.{first}")
    deployment = inspection.deployment
    return Configured(
        root=root,
        deployment=deployment,
        engine=CedarPolicyEngine(deployment),
        places=Places(root),
        environment=environment,
        unset=tuple(name for name in deployment.broker.environment_variables if not environment.get(name)),
    )


@click.command("explain")
@click.argument("request_file", metavar="[REQUEST.json]", type=click.File("rb"), required=False)
@click.option(
    "--event",
    "event_id",
    help="Explain an exchange of the audit table instead of a file: its event_id, its txn or the beginning of that; or a file "
    "with what `cab audit events` printed, `-` for standard input.",
)
@click.option(
    "--config",
    "folder",
    type=click.Path(path_type=Path),
    help="Configuration folder.  [default: $CAB_CONFIG_DIR, the running local stack's, examples/acme]",
)
@click.option("--project", envvar="GOOGLE_CLOUD_PROJECT", help="With --event: the deployment's Google Cloud project.")
@dataset_option
@since_option("30d")
@json_option
def explain_command(
    request_file: BinaryIO | None,
    event_id: str | None,
    folder: Path | None,
    project: str | None,
    dataset: str,
    since: datetime,
    *,
    as_json: bool,
) -> None:
    """Show the decision on one exchange, every check on the way and the rule behind it. Issues nothing.

    REQUEST.json says who asks (`agent`), for whom (`assertion`: decoded claims, or just `subject`, `groups`, `task`), for
    what (`resource` or `audience`, `authorization_details`, `scope`) and when (`at`); `mode: call` asks about a call that the
    broker makes itself, and shows the request that it would send. `-` reads standard input. Exits with 0
    whatever the decision is, with 2 when the request or the configuration cannot be read.
    """
    if (request_file is None) == (event_id is None):
        raise click.UsageError("Give either REQUEST.json or --event.")
    configured = load(folder)
    if request_file is not None:
        proof = _of_request(request_file, configured)
    elif project is None:
        raise click.UsageError("--event needs --project or GOOGLE_CLOUD_PROJECT.")
    else:
        names = _events_named(str(event_id))
        proofs: list[Proved] = []
        for name in names:
            try:
                proofs += _of_events(name, configured, project=project, dataset=dataset, since=since)
            except Unusable as error:
                if len(names) == 1:
                    raise
                click.echo(error.format_message(), err=True)
        if not proofs:
            raise Unusable("none of these events can be explained.")
        for proof in proofs[:-1]:
            click.echo(proof_as_json(proof, configured) if as_json else f"{proof_as_text(proof, configured)}\n")
        proof = proofs[-1]
    click.echo(proof_as_json(proof, configured) if as_json else proof_as_text(proof, configured))


def _of_request(file: BinaryIO, configured: Configured) -> Proved:
    name = getattr(file, "name", "<stdin>")  # a pipe may have none
    try:
        question = read_question(file.read(), configured.deployment, configured.environment, now=datetime.now(UTC))
        explanation = explain(question, configured.deployment, configured.engine)
    except BadRequest as error:
        raise Unusable(f"{name}: {error}") from error
    except Unreadable as error:
        raise Unusable(f"{name}: assertion: {error}") from error
    return Proved(question.agent, str(question.claims.get("sub")), question.at, explanation)


def _events_named(argument: str) -> list[str]:
    """The event ids or txns that `--event` means: itself, or those in a file of what `cab audit events` printed.

    Raises: Unusable.
    """
    if argument != "-" and not Path(argument).is_file():
        return [argument]
    text = sys.stdin.read() if argument == "-" else Path(argument).read_text("utf-8", errors="replace")
    try:
        rows = json.loads(text)
    except ValueError:  # the table: the txn is its last column, shortened where the terminal was narrow
        lines = [line.split() for line in text.splitlines()]
        blocks = [words[1] for words in lines if len(words) == 2 and words[0] == "txn"]  # how a narrow terminal has it
        names = [name.rstrip("…") for name in blocks or [w[-1] for w in lines if EventType.EXCHANGE_DECIDED.value in w]]
    else:
        rows = rows if isinstance(rows, list) else [rows]
        named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("event_id"), str)]
        decided_rows = [row for row in named if row.get("event_type") == EventType.EXCHANGE_DECIDED.value]
        names = [row["event_id"] for row in decided_rows]
    if not names:
        raise Unusable("there is no decision on an exchange in what `--event` was given.")
    return list(dict.fromkeys(names))


def _of_events(name: str, configured: Configured, *, project: str, dataset: str, since: datetime) -> Iterator[Proved]:
    """The event of that id, else the decisions on exchanges of that transaction, the newest first. Raises: Unusable."""
    from cab_ops.audit.questions import EVENT
    from cab_ops.cli.audit.access import tables_of

    with tables_of(project, dataset) as tables:
        rows = list(tables.ask(EVENT, event=name, since=since, limit=EVENTS_AT_MOST))
    if not rows:
        raise Unusable(f"{name} is not in the table; --since looks further back.")
    exact = [row for row in rows if row["event_id"] == name]
    if len(rows) == EVENTS_AT_MOST and not exact:
        click.echo(f"Only the newest {EVENTS_AT_MOST} events of {name} are looked at.", err=True)
    decided = [row for row in rows if row["event_type"] == EventType.EXCHANGE_DECIDED.value]
    for row in exact or decided or rows[:1]:
        yield _of_event(row, configured)


def _of_event(row: Row, configured: Configured) -> Proved:
    event_id = str(row["event_id"])
    try:
        event = read_json(row["event_json"] or "")
        if row["outcome"] == "withheld":  # the event still says what it said: another one takes it back
            event = replace(event, outcome=Outcome.REFUSED, reason_code=Reason.AUDIT_UNAVAILABLE.value)
        explained = explain_event(event, configured.deployment, configured.engine)
    except ValidationError as error:
        raise Unusable(f"{event_id} is not kept as an event of this version.") from error
    except NotExplainable as error:
        raise Unusable(f"{event_id}: {error}.") from error
    return Proved(
        agent=(event.actor and event.actor.agent_id) or "unknown",
        subject=(event.subject and event.subject.key) or "unknown",
        at=event.occurred_at,
        explanation=explained.explanation,
        recorded=Recorded(event_id, event.decision, event.reason_code, event.outcome, explained.agrees),
        notes=explained.notes,
    )

"""`cab explain`: the path of a decision like a proof. Nothing is issued, counted or asked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.cedar.rules import Rule
from cab.adapters.configuration.loader import inspect_folder
from cab.adapters.configuration.places import Places
from cab.adapters.configuration.problems import errors_among
from cab.cli.dev import environment_of_stack
from cab.cli.explain_request import BadRequest, read_question
from cab.cli.proof import proof_as_json, proof_as_text
from cab.domain.deployment import Deployment
from cab.use_cases.explain_exchange import Explanation, Unreadable, explain

DEMO_FOLDER = Path("examples/acme")


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
        decision = explanation.assessment.decision if explanation.assessment else None
        return tuple(self.engine.rule(name) for name in decision.rules) if decision else ()

    def candidate_rules_of(self, explanation: Explanation) -> tuple[Rule, ...]:
        shadow = explanation.assessment.shadow if explanation.assessment else None
        return tuple(self.engine.rule(name, candidate=True) for name in shadow.rules) if shadow else ()

    def unmatched_rules_of(self, explanation: Explanation) -> tuple[Rule, ...]:
        """The rules that speak of the action and did not decide."""
        if explanation.assessment is None:
            return ()
        decided = explanation.assessment.decision.rules
        about = self.engine.rules_about(explanation.assessment.intent.action.id)
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
@click.argument("request_file", metavar="REQUEST.json", type=click.File("rb"))
@click.option(
    "--config",
    "folder",
    type=click.Path(path_type=Path),
    help="Configuration folder.  [default: $CAB_CONFIG_DIR, the running local stack's, examples/acme]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def explain_command(request_file: BinaryIO, folder: Path | None, *, as_json: bool) -> None:
    """Show the decision on one exchange, every check on the way and the rule behind it. Issues nothing.

    REQUEST.json says who asks (`agent`), for whom (`assertion`: decoded claims, or just `subject`, `groups`, `task`), for
    what (`resource` or `audience`, `authorization_details`, `scope`) and when (`at`). `-` reads standard input. Exits with 0
    whatever the decision is, with 2 when the request or the configuration cannot be read.
    """
    configured = load(folder)
    try:
        question = read_question(
            request_file.read(), configured.deployment, configured.environment, now=datetime.now(UTC)
        )
        explanation = explain(question, configured.deployment, configured.engine)
    except BadRequest as error:
        raise Unusable(f"{_name(request_file)}: {error}") from error
    except Unreadable as error:
        raise Unusable(f"{_name(request_file)}: assertion: {error}") from error
    head: dict[str, Any] = {
        "agent": question.agent,
        "subject": question.claims.get("sub"),
        "at": question.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if as_json:
        click.echo(proof_as_json(head, explanation, configured))
    else:
        click.echo(proof_as_text(head, explanation, configured))


def _name(file: BinaryIO) -> str:
    return getattr(file, "name", "<stdin>")  # a pipe may have none

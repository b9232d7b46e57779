"""`cab dev`: the local stack, and tokens of it to try things with. The only module of `cab` that knows `cab_dev`."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import click

if TYPE_CHECKING:
    from cab_dev.front_end import FrontEndSession

DEFAULT_STATE_DIR = Path(".cab/dev")

_state_dir = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="Where the stack keeps its keys, data and logs. Two stacks need two.",
)


@click.group("dev")
def dev_group() -> None:
    """Run the local stack, and get tokens of it to try things with."""
    if find_spec("cab_dev") is None:
        raise click.ClickException(
            "`cab dev` runs from a checkout of the repository, where `make dev` sets it up; the installed package is "
            "without the local stack."
        )


@dev_group.command("up")
@click.option(
    "--config",
    "config_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Configuration folder.  [default: examples/acme]",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--emulators",
    type=click.Choice(["embedded", "official"]),
    default="embedded",
    show_default=True,
    help="Firestore and Pub/Sub: our own, or Google's (Java and the Cloud SDK).",
)
@click.option("--no-connect", is_flag=True, help="Leave the accounts of alice and bob unconnected.")
@click.option("--no-bigquery", is_flag=True, help="Write audit rows to a file only: starts sooner and computes less.")
@click.option(
    "--python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=sys.executable,
    show_default="this one",
    help="What the functions run on: of an environment with requirements/call_tool.txt.",
)
@click.option("--stop-at-eof", is_flag=True, hidden=True, help="Stop when standard input is closed: for programs.")
@_state_dir
def up(
    config_dir: Path | None,
    port: int,
    emulators: Literal["embedded", "official"],
    python: Path,
    state_dir: Path,
    *,
    no_connect: bool,
    no_bigquery: bool,
    stop_at_eof: bool,
) -> None:
    """Start everything, keep it up until Ctrl-C or SIGTERM, stop cleanly."""
    from cab_dev.stack import ROOT, StackOptions, run_stack

    options = StackOptions(
        config_dir=config_dir or ROOT / "examples" / "acme",
        state_dir=state_dir,
        port=port,
        emulators=emulators,
        connect=not no_connect,
        bigquery=not no_bigquery,
        python=python.absolute(),
        stop_at_end_of_input=stop_at_eof,
    )
    raise SystemExit(asyncio.run(run_stack(options, sys.stdout)))


def environment_of_stack(state_dir: Path = DEFAULT_STATE_DIR) -> dict[str, str]:
    """What `cab dev env` prints, empty where no stack runs or where the local stack is not installed."""
    try:
        from cab_dev.stack_file import NoStack, read_environment
    except ImportError:
        return {}
    try:
        return read_environment(state_dir)
    except NoStack:
        return {}


@dev_group.command("env")
@_state_dir
def env(state_dir: Path) -> None:
    """Print the variables that lead other commands to the running stack: eval "$(cab dev env)"."""
    from cab_dev.stack_file import NoStack, read_environment

    try:
        environment = read_environment(state_dir)
    except NoStack as exc:
        raise click.ClickException(str(exc)) from exc
    for name, value in environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _tell(state_dir: Path, command: str, service: str) -> None:
    from cab_dev.control import ControlFailed, ask

    try:
        click.echo(ask(state_dir, command, service))
    except ControlFailed as exc:
        raise click.ClickException(str(exc)) from exc


@dev_group.command("restart")
@click.argument("service")
@_state_dir
def restart(service: str, state_dir: Path) -> None:
    """Stop SERVICE of the running stack if it runs, and start it."""
    _tell(state_dir, "restart", service)


@dev_group.command("stop-service")
@click.argument("service")
@click.option("--kill", is_flag=True, help="SIGKILL, as a crash.")
@_state_dir
def stop_service(service: str, state_dir: Path, *, kill: bool) -> None:
    """Stop SERVICE of the running stack and leave the rest up; `restart` brings it back."""
    _tell(state_dir, "kill" if kill else "stop", service)


_front_end = click.option(
    "--front-end", help="Client id of the front end to play.  [default: the first of agents.yaml]"
)


_user = click.option(
    "--user", required=True, help="alice, bob or carol; at another identity provider, who its login page offers."
)
_task = click.option(
    "--task",
    "task_file",
    type=click.File("rb"),
    help="JSON file with the cab_task: what the user asked for. `-` reads standard input.",
)


def _print(state_dir: Path, front_end: str | None, wanted: Callable[[FrontEndSession], str]) -> None:
    """What a front end's session gives, or its one sentence of why it does not."""
    from cab_dev.front_end import FrontEndFailed, FrontEndSession

    try:
        click.echo(wanted(FrontEndSession.at(state_dir, front_end)))
    except FrontEndFailed as exc:
        raise click.ClickException(str(exc)) from exc


@dev_group.command("id-token")
@_user
@_front_end
@_state_dir
def id_token(user: str, front_end: str | None, state_dir: Path) -> None:
    """Log in as USER at the front end's identity provider and print a fresh ID token for the front end."""
    _print(state_dir, front_end, lambda session: session.id_token(user))


@dev_group.command("assertion")
@_user
@click.option("--agent", required=True, help="Who may use the assertion: the agent's client id.")
@_front_end
@_task
@_state_dir
def assertion(user: str, agent: str, front_end: str | None, task_file: BinaryIO | None, state_dir: Path) -> None:
    """Mint an assertion for USER as the front end does, and print it."""
    task = task_file.read() if task_file else None
    _print(state_dir, front_end, lambda session: session.assertion(user, agent=agent, task_json=task))


@dev_group.command("call-token")
@_user
@click.option("--agent", required=True, help="The agent's client id.")
@_front_end
@_task
@_state_dir
def call_token(user: str, agent: str, front_end: str | None, task_file: BinaryIO | None, state_dir: Path) -> None:
    """Print what AGENT presents, acting for USER, to have tools called at /mcp and /tools/call. It works for five minutes."""
    task = task_file.read() if task_file else None
    _print(state_dir, front_end, lambda session: session.call_token(user, agent=agent, task_json=task))


@dev_group.command("client-assertion")
@click.option("--agent", required=True, help="The agent's client id.")
@_state_dir
def client_assertion(agent: str, state_dir: Path) -> None:
    """Print a fresh private_key_jwt of AGENT for the token endpoint. It works once, for a minute."""
    from cab_dev.front_end import client_assertion as sign
    from cab_dev.stack_file import NoStack, StackFile

    try:
        stack = StackFile.read(state_dir)
    except NoStack as exc:
        raise click.ClickException(str(exc)) from exc
    entry = stack.agents.get(agent)
    if entry is None or entry.private_key_file is None:
        raise click.ClickException(f"There is no agent {agent} with a key. Choose from: {', '.join(stack.agents)}.")
    click.echo(sign(entry.private_key_file, client_id=entry.client_id, audience=stack.issuer))


@dev_group.command("approve")
@click.argument("uri")
@click.option("--user", required=True, help="Whose question it is: alice, bob or carol.")
@click.option("--refuse", is_flag=True, help="Say no instead.")
@_state_dir
def approve(uri: str, user: str, state_dir: Path, *, refuse: bool) -> None:
    """Open the approval page URI as USER, in a browser of their own after a fresh login, and say yes."""
    from cab_dev.people import PersonFailed, decide

    try:
        click.echo(decide(state_dir, uri, user=user, approve=not refuse))
    except PersonFailed as exc:
        raise click.ClickException(str(exc)) from exc

"""The command `cab`. Each subcommand lives in a module of its own and is imported only when it is called, so help is instant."""

from __future__ import annotations

import atexit
import errno
import gc
from importlib import import_module
from typing import NamedTuple

import click


class _Subcommand(NamedTuple):
    module: str
    attribute: str
    summary: str


_SUBCOMMANDS = {
    "dev": _Subcommand("cab_ops.cli.dev", "dev_group", "Run the local stack, and get tokens of it to try things with."),
    "config": _Subcommand("cab_ops.cli.config", "config_group", "Check a deployment's configuration folder."),
    "doctor": _Subcommand(
        "cab_ops.cli.trying.doctor",
        "doctor_command",
        "Say what is wrong with a deployment, one line each, with the remedy.",
    ),
    "connection": _Subcommand(
        "cab_ops.cli.trying.connection", "connection_group", "Try a connection against the live system behind it."
    ),
    "idp": _Subcommand(
        "cab_ops.cli.trying.idp", "idp_group", "Try an identity provider, or a token of it, against the live one."
    ),
    "explain": _Subcommand(
        "cab_ops.cli.explain.command", "explain_command", "Show a decision and its rule without issuing anything."
    ),
    "audit": _Subcommand(
        "cab_ops.cli.audit.commands", "audit_group", "Ask the audit tables: who did what for whom, and why."
    ),
    "policy": _Subcommand(
        "cab_ops.cli.audit.policy", "policy_group", "Try a configuration on what was decided in the past."
    ),
    "grants": _Subcommand("cab_ops.cli.grants", "grants_group", "List, inspect and revoke grants."),
    "people": _Subcommand("cab_ops.cli.people", "people_group", "Forget a person."),
    "keys": _Subcommand("cab_ops.cli.keys", "keys_group", "Create, rotate and list the broker's signing keys."),
    "openapi": _Subcommand(
        "cab_ops.cli.openapi", "openapi_command", "Print the OpenAPI document of the public HTTP API."
    ),
}


class _LazyGroup(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            "".join(args).encode()
        except UnicodeEncodeError as error:
            raise click.UsageError("An argument is no UTF-8 text.") from error
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """What the machine says of a file or disk is one sentence for people, in each command."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.strerror is None or error.errno == errno.EPIPE:  # a network's, or a reader who has seen enough
                raise
            raise click.ClickException(f"{error.filename or 'The output'}: {error.strerror}") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _SUBCOMMANDS:
            return None
        subcommand = _SUBCOMMANDS[cmd_name]
        command = getattr(import_module(subcommand.module), subcommand.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{subcommand.module}.{subcommand.attribute} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table: click's own would import every module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.summary) for name, subcommand in _SUBCOMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cab", prog_name="cab")
def main() -> None:
    """CAB, the Credential Access Broker: AI agents act as one user and never hold that user's credentials."""
    atexit.register(gc.freeze)  # or every command would end by looking for garbage in all that it has imported

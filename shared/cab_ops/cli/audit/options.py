"""Options that the audit commands share: where to ask, how far back, about whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from cab_ops.cli.tables import ELLIPSIS

_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,4})([mhdw])")


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _duration(text: str) -> timedelta | None:
    found = _DURATION.fullmatch(text)
    return timedelta(**{_UNITS[found.group(2)]: int(found.group(1))}) if found else None


class Duration(click.ParamType[timedelta]):
    """As in `90m`, `12h`, `7d`, `2w`."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        duration = value if isinstance(value, timedelta) else _duration(value)
        return duration or self.fail("Give a duration such as 90m, 12h or 7d.", param, ctx)


class Moment(click.ParamType[datetime]):
    """A duration before now (`90m`, `12h`, `7d`, `2w`) or an instant (`2026-11-21`, `2026-11-21T12:00:00Z`; UTC unless said)."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if duration := _duration(value):
            return datetime.now(UTC) - duration
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail("Give a duration such as 90m, 12h, 7d or an instant such as 2026-11-21T12:00:00Z.", param, ctx)
        return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


class Beginning(click.ParamType[str]):
    """A key or what it begins with, also as it is copied from a table: the mark of a shortened cell is dropped."""

    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).removesuffix(ELLIPSIS)
        if not text:
            self.fail("Give at least one character.", param, ctx)
        return text


def since_option(default: str = "1d") -> Decorator:
    return click.option(
        "--since",
        type=Moment(),
        default=default,
        show_default=True,
        help="How far back: 90m, 12h, 7d, 2w or an instant.",
    )


dataset_option = click.option(
    "--dataset", envvar="CAB_AUDIT_DATASET", default="cab_audit", show_default=True, help="BigQuery dataset."
)
limit_option: Decorator = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Most rows."
)
tenant_option = click.option("--tenant", help="Only this tenant.")
user_option = click.option("--user", type=Beginning(), help="Only this user: the subject key or its beginning.")
agent_option = click.option("--agent", help="Only this agent.")
connection_option = click.option("--connection", help="Only this connection.")
txn_option = click.option("--txn", type=Beginning(), help="Only this transaction: its txn or its beginning.")
decision_option = click.option(
    "--decision", type=click.Choice(["permit", "deny", "confirm"]), help="Only this decision."
)
type_option = click.option("--type", help="Only this event type, e.g. exchange.decided.")
reason_option = click.option("--reason", help="Only this reason_code.")
outcome_option = click.option(
    "--outcome",
    type=click.Choice(["done", "rejected", "failed", "not_sent", "unknown", "pending"]),
    help="Only calls that ended so.",
)
heads_option = click.option(
    "--heads", envvar="CAB_AUDIT_HEADS", show_envvar=True, help="Where signed heads are kept: gs://BUCKET or a folder."
)
heads_key_option = click.option(
    "--heads-key",
    envvar="CAB_AUDIT_HEADS_KEY",
    show_envvar=True,
    help="What they are signed with: a Cloud KMS key version, or a PEM file (the public half is enough); several separated by commas.",
)
longest_pause_option = click.option(
    "--longest-pause",
    type=Duration(),
    default="1h",
    show_default=True,
    help="Between two signed notes, and after the last one: what is longer is a finding.",
)

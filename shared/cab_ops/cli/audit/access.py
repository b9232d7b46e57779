"""How the audit commands come to the tables, and what people read when they cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from cab.ports import Unavailable
from cab_ops.audit.questions import AuditTables, QuestionRefused, Row, open_tables


@contextmanager
def tables_of(project: str, dataset: str) -> Iterator[AuditTables]:
    """The tables for one command. An outage or a refusal is one sentence and exit status 1, not a traceback."""
    try:
        with open_tables(project, dataset) as tables:
            yield tables
    except QuestionRefused as error:
        raise click.ClickException(str(error)) from error
    except Unavailable as error:
        raise click.ClickException(
            f"The {error.what} cannot be reached: check the project, your credentials and the network."
        ) from error


def rows_as_json(rows: Sequence[Row] | Mapping[str, Any]) -> str:
    return json.dumps(rows, indent=2, default=_json_value)


def _json_value(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)

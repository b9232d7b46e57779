"""The audit dataset of a new local BigQuery: made once by the emulator, then copied.

To make its tables, views and functions takes the emulator longer than most of what is then asked of them
(docs/decisions/audit-dataset-is-copied.md).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cab.adapters.google_cloud.bigquery import audit_schema
from cab_dev import local_cloud
from cab_dev.services import bigquery

_KEPT_FOR_S = 7 * 24 * 3600

Maker = Callable[[Path, str, str, bigquery.Rows], None]


def lay(
    data_dir: Path,
    *,
    project: str,
    dataset: str,
    rows: bigquery.Rows = "few",
    shelf: Path | None = None,
    make: Maker | None = None,
) -> str:
    """Put the audit dataset with its table and views into the empty folder of a new emulator, before that starts. Blocking.

    `rows`: for what that emulator will be set up, as in `bigquery.server`.

    Takes a few seconds the first time, and whenever the emulator, the table or a view is another. Returns a few words for
    people. Raises: NotInstallable; OSError, when the folder is not empty.
    """
    shelf, make = shelf or bigquery.kept(), make or _make
    shelf.mkdir(parents=True, exist_ok=True)
    new = data_dir.with_name(f"{data_dir.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with bigquery.only_one_at_a_time(shelf / "lock"):
        made = shelf / _key(project, dataset, rows)
        if not made.exists():
            unfinished = made.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished, project, dataset, rows)
            unfinished.replace(made)
        os.utime(made)
        shutil.copytree(made, new)
        _forget_what_nobody_uses(shelf)
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    new.replace(data_dir)  # a whole one or none, however this ends
    return f"dataset {dataset}, {len(audit_schema.VIEWS)} views"


def _make(folder: Path, project: str, dataset: str, rows: bigquery.Rows) -> None:
    with bigquery.running(folder, rows=rows) as url:
        local_cloud.create_audit_tables(project, dataset, url)
    (folder / "log").unlink()


def _key(project: str, dataset: str, rows: bigquery.Rows) -> str:
    """Another one for whatever could make another dataset."""
    parts = [
        bigquery.fingerprint(),
        rows,
        Path(__file__).read_text(encoding="utf-8"),
        Path(audit_schema.__file__).read_text(encoding="utf-8"),
        audit_schema.schema_json(),
        audit_schema.schema_json(audit_schema.configuration_columns()),
    ]
    for view in audit_schema.VIEWS:
        parts.append(audit_schema.view_sql(view, project=project, dataset=dataset))
        if audit_schema.has_period(view):
            parts.append(audit_schema.function_sql(view, project=project, dataset=dataset))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _forget_what_nobody_uses(shelf: Path) -> None:
    for folder in shelf.iterdir():
        if folder.is_dir() and time.time() - folder.stat().st_mtime > _KEPT_FOR_S:
            shutil.rmtree(folder)

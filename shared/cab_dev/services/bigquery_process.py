"""Runs the local BigQuery, as `python -P bigquery_process.py few|many ARGUMENTS OF local-bigquery`.

Belongs to the emulator's own Python environment, so it imports nothing of ours.
"""

import sys
from pathlib import Path
from typing import Any

import duckdb
from local_bigquery.cli import main

# How DuckDB answers, never what. To order joins and to know the range of each column it reads statistics from DuckLake's
# own tables, which takes longer than the question does when a table holds a few thousand rows; so does sharing the work.
_FOR_FEW_ROWS = {"threads": 1, "disabled_optimizers": "join_order,statistics_propagation"}

_connect = duckdb.connect


def connect(*arguments: Any, config: dict[str, Any] | None = None, **options: Any) -> Any:
    """`duckdb.connect` with our settings."""
    return _connect(*arguments, config={**_FOR_FEW_ROWS, **(config or {})}, **options)


def settle(data_dir: Path) -> None:
    """Tell the catalogs of a data folder where it is now: they hold its full path, and it may be a copy."""
    for catalog in data_dir.glob("*.ducklake"):
        here = f"{catalog.with_suffix('')}/"
        with _connect(catalog) as connection:
            connection.execute(
                "UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path' AND value <> ?", [here, here]
            )


if __name__ == "__main__":
    data_dir = Path(sys.argv[sys.argv.index("--data-dir") + 1])
    data_dir.mkdir(parents=True, exist_ok=True)
    settle(data_dir.resolve())
    if sys.argv.pop(1) == "few":
        duckdb.connect = connect
    main()

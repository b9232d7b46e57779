"""Runs the local BigQuery, as `python -P bigquery_process.py few|many ARGUMENTS OF local-bigquery`.

`few` sets it up for tables of some thousand rows. What it answers is the same, and comes from the emulator's own code: where that
asks DuckDB for more than an answer needs, DuckDB is asked for less. Belongs to the emulator's own Python environment, so it
imports nothing of ours.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import duckdb
from local_bigquery.catalog import tabledata, tables
from local_bigquery.cli import main
from local_bigquery.engine import database, types

# To order joins and to know the range of each column DuckDB reads statistics from DuckLake's own tables, which takes longer
# than the question does; so does sharing the work among threads.
_SETTINGS = {"threads": 1, "disabled_optimizers": "join_order,statistics_propagation"}
# A project's file. DuckLake notes statistics of each column of each insert in tables of its own: that takes longer than the insert.
_FEW = ".few.duckdb"

_connect, _objects, _write, _load = duckdb.connect, database.objects, tables.write, tables.load
_attach, _connected = database._attach, database._connect  # noqa: SLF001 - there is no other place that says how data are kept


def settle(data_dir: Path) -> None:
    """Tell the catalogs of a data folder where it is now: they hold its full path, and it may be a copy."""
    for catalog in data_dir.glob("*.ducklake"):
        here = f"{catalog.with_suffix('')}/"
        with _connect(catalog) as connection:
            connection.execute(
                "UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path' AND value <> ?", [here, here]
            )


def set_up_for_few_rows() -> None:
    duckdb.connect = connect
    database._attach, database._connect = attach, connected  # noqa: SLF001 - as above
    database.projects = projects
    database.objects = objects
    tables.columns = tabledata.columns = columns
    tabledata.load = find
    tables.write = write


def connect(*arguments: Any, config: dict[str, Any] | None = None, **options: Any) -> Any:
    return _connect(*arguments, config={**_SETTINGS, **(config or {})}, **options)


def attach(connection: Any, project: str) -> None:
    """A project is a database file of its own, unless it is kept in DuckLake's files already."""
    file = database.settings.data_dir / project
    if file.with_name(f"{project}.ducklake").exists():
        _attach(connection, project)
    else:
        connection.execute(
            f"ATTACH IF NOT EXISTS '{file}{_FEW}' AS {database.quote(project)} (STORAGE_VERSION 'latest')"
        )
        database._attached.add(project)  # noqa: SLF001 - as above


@functools.cache
def connected() -> Any:
    connection = _connected()
    for file in database.settings.data_dir.glob(f"*{_FEW}"):
        attach(connection, file.name.removesuffix(_FEW))
    return connection


def projects() -> list[str]:
    of_few = f"(type = 'duckdb' AND ends_with(path, '{_FEW}'))"
    asked = f"SELECT database_name FROM duckdb_databases() WHERE type = 'ducklake' OR {of_few} ORDER BY database_name"  # noqa: S608
    return [name for (name,) in database.fetch(asked)]


def objects(project: str, dataset: str, table: str | None = None) -> Any:
    """Whether the table of an answer is there, without a list of all that is in every project."""
    if dataset != tables.RESULTS or table is None:
        return _objects(project, dataset, table)
    try:
        ((rows,),) = database.fetch(f"SELECT count(*) FROM {database.quote(project, dataset, table)}")  # noqa: S608
    except duckdb.CatalogException:
        return []
    return [(table, "TABLE", rows)]


def columns(project: str, dataset: str, table: str) -> Any:
    """Those of this one table, without a list of all columns of every project."""
    name = tables.name(project, dataset, table)
    with database.cursor() as cursor:
        try:
            described = cursor.execute(f"DESCRIBE {name}").fetchall()
        except duckdb.CatalogException:
            raise tables.not_found("Table", tables.names.label(project, dataset, table)) from None
        required = {column for column, _, nullable, *_ in described if nullable == "NO"}
        answer = cursor.sql(f"SELECT * FROM {name} LIMIT 0")  # noqa: S608
        return [
            types.field(column, kind, column in required)
            for column, kind in zip(answer.columns, answer.types, strict=True)
            if column != tables.INGESTION_TIME or dataset == tables.RESULTS
        ]


def find(project: str, dataset: str, table: str) -> Any:
    """Whoever reads or writes rows asks only whether the table is there, and not yet at its end."""
    stored = tables.metadata.load(tables.Table, project, dataset, table)
    if stored is None or stored.expirationTime is not None:
        return _load(project, dataset, table)
    return stored


def write(cursor: Any, query: str, parameters: Any, *where: Any, **how: Any) -> Any:
    """The emulator reads a query's columns, its types and its rows one after the other. All three of one run."""
    cursor.execute(f"CREATE OR REPLACE TEMP TABLE _answer AS {query}", parameters)
    try:
        return _write(cursor, "SELECT * FROM temp.main._answer", None, *where, **how)
    finally:
        cursor.execute("DROP TABLE temp.main._answer")


if __name__ == "__main__":
    data_dir = Path(sys.argv[sys.argv.index("--data-dir") + 1])
    data_dir.mkdir(parents=True, exist_ok=True)
    settle(data_dir.resolve())
    if sys.argv.pop(1) == "few":
        set_up_for_few_rows()
    main()

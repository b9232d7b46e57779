"""Acme's data warehouse: SQL over deal history, each user sees only own rows. It trusts CAB's JWTs and knows no CAB.

    python -m examples.acme.services.warehouse --port 8084 --issuer http://127.0.0.1:8080/oauth2 [--users users.json]
        [--client client.json --client-keys keys/]

`POST /query` with `{"query": "..."}`: one of the named queries (`GET /queries` lists them) or one SELECT over
`deals_history(owner, account, quarter, amount)`, `amount` in whole euros.

The token must be an RFC 9068 access token of the issuer for this service's own origin, with scope `query.run` and an
`authorization_details` entry of action `warehouse.query.run` here that covers the query: by `identifier` `query/*`,
`query/NAME` for that named query, or by giving the text in `parameters.query`. So what was allowed is what runs.

`--client` is a JSON object whose `client_id` is its name at the issuer, which it then tells what came of each token; its key
is the file of that name in `--client-keys`.

`--users` is a JSON object from `sub` to warehouse user; without it Acme's people are provisioned, as subjects of
`--idp-issuer` (default: ACME_IDP_ORIGIN).
"""

import math
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_client import PrivateKeyJwt
from cab_client.reports import OutcomeReporter
from cab_client.resource import (
    CAME_IN,
    METADATA_PATH,
    Caller,
    FetchJson,
    Gate,
    NotCovered,
    Refusal,
    Reporter,
    RequestView,
    Telling,
    fetch_json,
)
from cab_dev.doubles.service import create_app, origin_of, read_json_file, serve, service_arguments
from cab_dev.doubles.strict_input import BadRequest, read_json_object
from examples.acme.warehouse_users import warehouse_users

SCOPE = "query.run"
ACTION = "warehouse.query.run"
MAX_ROWS = 200
_MAX_STEPS = 200_000  # SQLite instructions of one query

NAMED_QUERIES = {
    "revenue_by_quarter": (
        "SELECT quarter, SUM(amount) AS revenue FROM deals_history GROUP BY quarter ORDER BY quarter"
    ),
    "revenue_by_account": (
        "SELECT account, SUM(amount) AS revenue FROM deals_history GROUP BY account ORDER BY revenue DESC"
    ),
    "acme_history": "SELECT quarter, amount FROM deals_history WHERE account = 'Acme' ORDER BY quarter",
}

DEALS = (
    ("alice", "Acme", "2025-Q1", 98_000),
    ("alice", "Acme", "2025-Q3", 121_000),
    ("alice", "Globex", "2025-Q2", 64_000),
    ("alice", "Initech", "2025-Q4", 15_500),
    ("bob", "Acme", "2025-Q2", 22_000),
    ("bob", "Soylent", "2025-Q3", 47_250),
    ("bob", "Soylent", "2025-Q4", 51_000),
)

_READ_ONLY = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_FUNCTIONS = {"sum", "count", "avg", "min", "max", "total", "round", "abs", "lower", "upper", "length", "coalesce"}


def _allow_reading(action: int, table: str | None, name: str | None, *_: str | None) -> int:
    """SQLite authorizer: SELECT, our one table, harmless functions. Everything else is denied while preparing."""
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_OK if (name or "").lower() in _FUNCTIONS else sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_READ and table not in ("deals_history", ""):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READ_ONLY else sqlite3.SQLITE_DENY


def _is_json(cell: Any) -> bool:
    """SQLite also knows bytes and infinities."""
    return cell is None or isinstance(cell, int | str) or (isinstance(cell, float) and math.isfinite(cell))


def run_query(sql: str, owner: str) -> dict[str, Any]:
    """Columns and rows of one SELECT, over a table that only ever held the rows of `owner`. Raises BadRequest."""
    database = sqlite3.connect(":memory:")
    try:
        database.execute("CREATE TABLE deals_history (owner TEXT, account TEXT, quarter TEXT, amount INTEGER)")
        own_rows = [deal for deal in DEALS if deal[0] == owner]
        database.executemany("INSERT INTO deals_history VALUES (?,?,?,?)", own_rows)
        database.commit()
        database.set_authorizer(_allow_reading)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        database.set_progress_handler(lambda: 1, _MAX_STEPS)
        cursor = database.execute(sql)
        rows = cursor.fetchmany(MAX_ROWS + 1)
        columns = [column[0] for column in cursor.description or ()]
        if not columns or not all(_is_json(cell) for row in rows for cell in row):
            raise ValueError("nothing to show, or nothing that JSON can show")
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as exc:
        raise BadRequest("invalid_query", "Only one plain SELECT over deals_history is possible.") from exc
    finally:
        database.close()
    return {"columns": columns, "rows": [list(row) for row in rows[:MAX_ROWS]], "truncated": len(rows) > MAX_ROWS}


def may_run(caller: Caller, request: RequestView) -> None:
    """The rule of `POST /query`. Raises: NotCovered."""
    if SCOPE not in caller.scopes:
        raise NotCovered(f"the scope {SCOPE}", scope=SCOPE)
    query = request.body().get("query")
    if not any(_covers(intent, query) for intent in caller.intents if _is_for_us(intent, request.resource)):
        raise NotCovered("an intent for this query here")


def _is_for_us(intent: Mapping[str, Any], resource: str) -> bool:
    return (
        intent.get("type") == "cab_action"
        and isinstance(intent.get("actions"), list)
        and ACTION in intent["actions"]
        and intent.get("locations") == [resource]
    )


def _covers(entry: Mapping[str, Any], query: Any) -> bool:
    """Whether the intent lets this query run: a text it gives beats a name, and a name beats nothing."""
    parameters = entry.get("parameters")
    if isinstance(parameters, dict) and "query" in parameters:
        return bool(parameters["query"] == query)
    return entry.get("identifier") == "query/*" or (
        query in NAMED_QUERIES and entry.get("identifier") == f"query/{query}"
    )


def create_warehouse(
    *,
    origin: str,
    issuer: str,
    users: Mapping[str, str],
    fetch: FetchJson = fetch_json,
    reporter: Reporter | None = None,
) -> Starlette:
    """The warehouse as an application.

    `origin` is its resource URI, `issuer` the STS issuer it trusts, `users` its users by the `sub` of that issuer.
    `reporter` tells the issuer what came of each token.
    """
    gate = Gate(issuer=issuer, resource=origin, fetch=fetch, reporter=reporter)
    calls: list[dict[str, Any]] = []

    async def query(request: Request) -> Response:
        headers, body = request.headers.items(), await request.body()
        whole = body if len(body) <= gate.max_body else None
        caller = await run_in_threadpool(gate.judge, "POST", "/query", request.url.query, headers, whole, may_run, {})
        if isinstance(caller, Refusal):
            raise BadRequest(caller.error, caller.description, status=caller.status, headers=gate.headers_of(caller))
        request.scope[CAME_IN].append((caller, headers))
        document = await read_json_object(request)
        text = document.get("query")
        if set(document) != {"query"} or not isinstance(text, str) or not 1 <= len(text) <= 2000:
            raise BadRequest("invalid_request", "The body has one member, query: 1 to 2000 characters.")
        owner = users.get(caller.subject)
        if owner is None:
            raise BadRequest("unknown_user", "The warehouse has no such user.", status=403)
        calls.append({"user": owner, "client_id": caller.agent, "act": caller.claims.get("act"), "txn": caller.txn})
        del calls[:-1000]
        return JSONResponse(run_query(NAMED_QUERIES.get(text, text), owner))

    async def queries(_: Request) -> Response:
        return JSONResponse({"queries": NAMED_QUERIES})

    async def metadata(_: Request) -> Response:
        return JSONResponse(gate.metadata())

    async def requests(_: Request) -> Response:
        return JSONResponse({"requests": calls})

    app = create_app(
        [
            Route("/query", query, methods=["POST"]),
            Route("/queries", queries, methods=["GET"]),
            Route(METADATA_PATH, metadata, methods=["GET"]),
            Route("/_control/requests", requests, methods=["GET"]),
        ],
        origin=origin,
    )
    app.add_middleware(Telling, gate=gate)
    return app


def main() -> None:
    parser = service_arguments("warehouse", default_port=8084)
    parser.add_argument("--issuer", default=os.environ.get("CAB_ISSUER", "http://127.0.0.1:8080/oauth2"))
    parser.add_argument("--users", default=os.environ.get("ACME_WAREHOUSE_USERS"), help="JSON file, user by sub")
    parser.add_argument("--idp-issuer", default=os.environ.get("ACME_IDP_ORIGIN", "http://127.0.0.1:8081"))
    parser.add_argument("--client", help="JSON file with its client_id at the issuer, to report outcomes")
    parser.add_argument("--client-keys", type=Path, help="folder with the JWK file of that client")
    arguments = parser.parse_args()
    users = read_json_file(arguments.users) if arguments.users else warehouse_users(arguments.idp_issuer)
    reporter = None
    client_id = read_json_file(arguments.client)["client_id"] if arguments.client else None
    if client_id is not None:
        credential = PrivateKeyJwt(client_id, key_file=arguments.client_keys / f"{client_id}.json")
        reporter = OutcomeReporter(arguments.issuer.removesuffix("/oauth2"), credential)
    app = create_warehouse(origin=origin_of(arguments), issuer=arguments.issuer, users=users, reporter=reporter)
    serve(app, port=arguments.port)


if __name__ == "__main__":
    main()

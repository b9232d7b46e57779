"""Acme's project tracker: everybody's own tasks, behind the tracker's own OAuth server (rotation with leeway).

    python -m examples.acme.services.tracker --port 8083 --clients clients.json [--state tracker.sqlite]

`GET /tasks`, `POST /tasks` with `title`, and optional `priority` (low, normal, high), `due` (YYYY-MM-DD),
`opportunity` (id of a CRM opportunity, not checked here).
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_dev.doubles.clients import RegisteredClient, load_clients
from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.oauth_provider import (
    PROFILES,
    Account,
    OAuthProvider,
    ProviderProfile,
    ProviderSettings,
    TrustedIssuer,
    load_trusted_issuers,
)
from cab_dev.doubles.service import create_app, origin_of, serve, service_arguments
from cab_dev.doubles.strict_input import BadRequest, read_json_object, read_query
from examples.acme.people import PEOPLE
from examples.acme.services.fields import calendar_day, text_of
from examples.acme.services.user_api import UserApi

ACCOUNTS = tuple(
    Account(login=person.login, account_id=person.tracker_account, name=person.name, email=person.email)
    for person in PEOPLE.values()
)
SCOPES = {
    "task.read": "See your tasks",
    "task.write": "Create tasks in your name",
    "offline_access": "Keep this access while you are away",
}
PRIORITIES = ("low", "normal", "high")
_MAX_TASKS = 10_000


def _new_task(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a new task, checked and completed. Raises BadRequest."""
    if not set(document) <= {"title", "priority", "due", "opportunity"}:
        raise BadRequest("invalid_request", "A task has title, priority, due and opportunity.")
    title = text_of(document.get("title"), "title", 200)
    priority = document.get("priority", "normal")
    if priority not in PRIORITIES:
        raise BadRequest("invalid_request", f"priority must be one of: {', '.join(PRIORITIES)}.")
    due = document.get("due")
    if due is not None:
        due = calendar_day(due, "due").isoformat()
    opportunity = document.get("opportunity")
    if opportunity is not None and not (
        isinstance(opportunity, str) and re.fullmatch(r"[0-9A-Za-z-]{1,32}", opportunity)
    ):
        raise BadRequest("invalid_request", "opportunity must be an opportunity id.")
    return {"title": title, "priority": priority, "due": due, "opportunity": opportunity}


def create_tracker(
    *,
    issuer: str,
    clients: Mapping[str, RegisteredClient],
    database: str = ":memory:",
    profile: ProviderProfile = PROFILES["acme-tracker"],
    clock: MovableClock | None = None,
    trusted_issuers: tuple[TrustedIssuer, ...] = (),
) -> Starlette:
    """The tracker as an application. `issuer` is its own origin; `database` keeps tokens, not tasks."""
    provider = OAuthProvider(
        ProviderSettings(
            issuer=issuer,
            brand="Acme Tracker",
            accent="#2f6b4f",
            cookie="acme_tracker_session",
            profile=profile,
            clients=clients,
            accounts=ACCOUNTS,
            scopes=SCOPES,
            database=database,
            clock=clock or MovableClock(),
            trusted_issuers=trusted_issuers,
        )
    )
    tasks: list[dict[str, Any]] = []

    async def list_tasks(request: Request, user: str) -> Response:
        if read_query(request):
            raise BadRequest("invalid_request", "Tasks cannot be filtered.")
        return JSONResponse({"tasks": [task for task in tasks if task["owner"] == user]})

    async def create_task(request: Request, user: str) -> Response:
        fields = _new_task(await read_json_object(request))
        if len(tasks) >= _MAX_TASKS:
            raise BadRequest("too_many_tasks", "The demo tracker is full.", status=409)
        task = {"id": f"t-{len(tasks) + 1:04d}", "owner": user, **fields}
        tasks.append(task)
        return JSONResponse(task, status_code=201)

    async def restore(_: Request) -> Response:
        tasks.clear()
        return JSONResponse({})

    api = UserApi(provider)
    return create_app(
        [
            *provider.routes(),
            api.log_route(),
            Route("/_control/restore", restore, methods=["POST"]),
            api.route("GET", "/tasks", "task.read", list_tasks),
            api.route("POST", "/tasks", "task.write", create_task),
        ],
        origin=issuer,
    )


def main() -> None:
    parser = service_arguments("tracker", default_port=8083)
    parser.add_argument("--clients", default=os.environ.get("ACME_TRACKER_CLIENTS"), help="JSON file of OAuth clients")
    parser.add_argument(
        "--state", default=os.environ.get("ACME_TRACKER_STATE", ":memory:"), help="SQLite file of tokens"
    )
    parser.add_argument("--trust", default=os.environ.get("ACME_TRACKER_TRUST"), help="JSON file of issuers that vouch")
    arguments = parser.parse_args()
    app = create_tracker(
        issuer=origin_of(arguments),
        clients=load_clients(arguments.clients),
        database=arguments.state,
        trusted_issuers=load_trusted_issuers(arguments.trust, ACCOUNTS),
    )
    serve(app, port=arguments.port)


if __name__ == "__main__":
    main()

"""What a test or an operator of the stack may ask a provider double, and do to it."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_dev.doubles.oauth_provider.settings import ProviderSettings
from cab_dev.doubles.oauth_provider.token_book import TokenBook
from cab_dev.doubles.strict_input import BadRequest, read_json_object, read_query


def ledger_routes(settings: ProviderSettings, book: TokenBook, reset: Callable[[], None]) -> list[Route]:
    """Control endpoints of the token book.

    `GET /_control/ledger?since=SEQ&grant_id=ID`: `entries` and all `grants` with their usable refresh tokens, by digest.
    `GET /_control/tokens/{sha256}`: the state of one token. `POST /_control/withdraw` with `{"account": LOGIN}`: the user
    ends all access here. `POST /_control/reset`: forget everything.
    """

    async def show_ledger(request: Request) -> Response:
        query = read_query(request)
        since = query.get("since", "0")
        if not since.isascii() or not since.isdigit() or len(since) > 15:
            raise BadRequest("invalid_request", "since must be a sequence number.")
        entries = book.ledger(since=int(since), grant_id=query.get("grant_id"))
        return JSONResponse({"now": settings.clock(), "entries": entries, "grants": book.grants()})

    async def show_token(request: Request) -> Response:
        state = book.token_state(request.path_params["sha256"])
        return JSONResponse(state or {"error": "not_found"}, status_code=200 if state else 404)

    async def withdraw(request: Request) -> Response:
        account = settings.account_of((await read_json_object(request)).get("account"))
        if account is None:
            raise BadRequest("invalid_request", "account must be a login of this provider.")
        book.end_account(account.account_id)
        return JSONResponse({})

    async def forget(_: Request) -> Response:
        reset()
        return JSONResponse({})

    return [
        Route("/_control/ledger", show_ledger, methods=["GET"]),
        Route("/_control/tokens/{sha256}", show_token, methods=["GET"]),
        Route("/_control/withdraw", withdraw, methods=["POST"]),
        Route("/_control/reset", forget, methods=["POST"]),
    ]

"""Stands before Keycloak's token endpoint and lets answers come late or not at all; Keycloak itself works as always.

    python -m tests.real.fault_proxy --port 8090 --upstream http://127.0.0.1:8091

`POST /_control/faults` takes faults as the doubles do (cab_dev/doubles/faults.py), `GET /_control/count` tells how many requests
of each grant type came.
"""

from __future__ import annotations

import argparse
from collections import Counter
from urllib.parse import parse_qs

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_dev.doubles.faults import FaultBoard

PASSED_ON = ("content-type", "authorization", "accept")


def application(upstream: str) -> Starlette:
    board = FaultBoard(("token",))
    count: Counter[str] = Counter()

    async def token(request: Request) -> Response:
        body = await request.body()
        grant_type = parse_qs(body.decode()).get("grant_type", [""])[0]
        count[grant_type] += 1

        async def ask() -> Response:
            headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
            async with (
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.post(upstream + request.url.path, data=body, headers=headers) as answer,
            ):
                return Response(await answer.read(), answer.status, {"content-type": answer.content_type})

        return await board.around(board.take("token", grant_type=grant_type), request, ask)

    async def faults(request: Request) -> Response:
        if request.method == "DELETE":
            board.clear()
        else:
            board.set_from_json(await request.json())
        return JSONResponse(board.describe())

    async def counted(_: Request) -> Response:
        return JSONResponse(count)

    async def health(_: Request) -> Response:
        return Response()

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/_control/count", counted),
            Route("/_control/faults", faults, methods=["POST", "DELETE"]),
            Route("/realms/{path:path}", token, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    arguments = parser.parse_args()
    uvicorn.run(application(arguments.upstream), host="127.0.0.1", port=arguments.port, log_level="warning")

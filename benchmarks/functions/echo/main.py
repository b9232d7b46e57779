"""The framework's own price: a form in, JSON of the same size as a broker's answer out."""

import os

import functions_framework.aio
from starlette.requests import Request
from starlette.responses import Response

_ANSWER = b'{"access_token":"%s"}' % (b"x" * (int(os.environ["BENCH_ANSWER_BYTES"]) - 19))


@functions_framework.aio.http
async def echo(request: Request) -> Response:
    await request.body()
    return Response(_ANSWER, media_type="application/json", headers={"Cache-Control": "no-store"})

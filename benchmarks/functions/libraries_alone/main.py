"""The framework and the libraries that `exchange_token` stands on, one model built and nothing done: no cold start can be below this."""

import gc

gc.set_threshold(20_000, 20, 20)  # as the broker sets it

import cedarpy  # noqa: E402, F401
import cryptography.hazmat.primitives.asymmetric.ec  # noqa: E402
import cryptography.hazmat.primitives.asymmetric.rsa  # noqa: E402, F401
import functions_framework.aio  # noqa: E402
import google.auth.credentials  # noqa: E402, F401
import orjson  # noqa: E402, F401
import yaml  # noqa: E402, F401
from pydantic import BaseModel, Field  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402


class _Model(BaseModel):
    member: str = Field(min_length=1)


@functions_framework.aio.http
async def exchange_token(request: Request) -> Response:
    await request.body()
    return Response(b"{}", media_type="application/json")

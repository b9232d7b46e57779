"""Control endpoints that every double has: its faults and its clock."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cab_dev.doubles.clock import MovableClock
from cab_dev.doubles.faults import FaultBoard
from cab_dev.doubles.strict_input import BadRequest, read_json_object


def control_routes(faults: FaultBoard, clock: MovableClock) -> list[Route]:
    """`GET|POST|DELETE /_control/faults` (show, add, clear) and `POST /_control/clock` with `{"advance_s": 60}`."""

    async def change_faults(request: Request) -> Response:
        if request.method == "POST":
            faults.set_from_json(await read_json_object(request))
        elif request.method == "DELETE":
            faults.clear()
        return JSONResponse({"faults": faults.describe()})

    async def advance_clock(request: Request) -> Response:
        seconds = (await read_json_object(request)).get("advance_s")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise BadRequest("invalid_request", "advance_s must be a number.")
        try:
            clock.advance(seconds)
        except ValueError as exc:
            raise BadRequest("invalid_request", "advance_s must be from 0 to 10^9.") from exc
        return JSONResponse({"now": clock()})

    return [
        Route("/_control/faults", change_faults, methods=["GET", "POST", "DELETE"]),
        Route("/_control/clock", advance_clock, methods=["POST"]),
    ]

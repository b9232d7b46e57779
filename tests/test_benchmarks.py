"""What the benchmarks' own parts do: the load generator, and what an overload is judged by."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from benchmarks.injected_waits import Waits, one_after_another
from benchmarks.instructions import total
from benchmarks.load import Leg, Legs, NotServed, Post, send
from benchmarks.overload import Overload
from benchmarks.report import Goal

from cab_dev import loopback


def test_instructions_are_those_of_the_last_part_that_the_worker_wrote(tmp_path: Path) -> None:
    for name, counted in (("out.7", 1), ("out.7.9", 5_000), ("out.7.10", 6_000), ("out.8.11", 9)):
        (tmp_path / name).write_text(
            f"version: 1\nevents: Ir\nsummary: {counted}\n\nfn=(1) f\n1 9\n\ntotals: {counted}\n"
        )
    assert total(tmp_path, "7") == 6_000


def test_a_wait_is_as_long_as_the_calls_to_a_service_took_and_not_what_was_injected() -> None:
    waits = Waits(answers=[0.044, 0.050, 0.090])
    waits.add_calls(
        {"service": service, "took_s": took_s}
        for service, took_s in (("firestore", 0.021), ("firestore", 0.022), ("firestore", 0.5), ("pubsub", 0.028))
    )
    waits.add_calls([{"service": "pubsub", "took_s": None}])  # not yet answered
    assert waits.unavoidable_s == pytest.approx(0.05)
    assert waits.over_unavoidable == pytest.approx(1.0)
    assert waits.over_injected == pytest.approx(1.25)


def test_waits_are_counted_that_begin_when_another_has_ended() -> None:
    beside = [(0.0, 2.0), (0.1, 1.9), (0.2, 3.0)]
    assert one_after_another([]) == 0
    assert one_after_another(beside) == 1
    assert one_after_another([*beside, (2.0, 4.0), (2.5, 4.5), (4.6, 6.0)]) == 3


def test_a_goal_that_cannot_be_met_is_told_as_missed_with_what_stands_in_its_way() -> None:
    missed = Goal("one connection / all", 1.69, 1.4, at_best=("echo-1 / echo", 2.04))
    assert missed.verdict == "MISSED, bound 2.04 (echo-1 / echo)"
    promised = Goal("US$", 2.9, 2.2, missed_because="two writes")
    assert promised.verdict == "MISSED, two writes"
    assert replace(promised, figure=2.0).verdict == "met"


GOOD = Overload(
    in_flight=512,
    capacity=500,
    sent=1000,
    served=700,
    served_p50=0.9,
    served_p99=1.4,
    refused=300,
    refused_p50=0.002,
    refused_p99=0.02,
    otherwise=0,
    recovered=0.1,
)


@pytest.mark.parametrize(
    "change",
    [{"served_p99": 2.1}, {"refused_p99": 0.06}, {"refused": 0}, {"otherwise": 1}, {"recovered": 2.5}],
    ids=lambda change: next(iter(change)),
)
def test_an_overload_is_said_to_miss_each_of_its_goals(change: dict[str, Any]) -> None:
    assert GOOD.misses == []
    assert len(replace(GOOD, **change).misses) == 1


def test_each_leg_is_made_of_the_answer_before_and_must_end_as_it_says() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        form = await request.post()
        asked.append(str(form["number"]))
        return web.Response(text=str(len(asked)), status=400 if len(asked) == 1 else 200)

    async def talk() -> None:
        application = web.Application()
        application.add_routes([web.post("/", answer)])
        runner, port = await loopback.serve(application, 0)

        def leg(status: int) -> Leg:
            return Leg(lambda before: Post("/", {"number": before.decode() or "first"}), status=status)

        took: list[float] = []
        try:
            assert await send([Legs((leg(400), leg(200)))], port=port, connections=1, took=took) == b"2"
            with pytest.raises(NotServed, match="200"):
                await send([Legs((leg(400), leg(200)))], port=port, connections=1)
        finally:
            await runner.cleanup()
        assert asked[:2] == ["first", "1"]
        assert len(took) == 1

    asyncio.run(talk())

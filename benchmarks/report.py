"""The figures as one table, with each goal's verdict, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import call_waits
from benchmarks.call_counts import POSTS_ONE_BY_ONE, POSTS_TOGETHER
from benchmarks.call_waits import CALL_MODE, DIRECT, TOKEN_MODE, Waits
from benchmarks.cold_start import OURS, STOCK, ColdStart
from benchmarks.injected_waits import INJECTED_S
from benchmarks.operations import Operations, us_dollars
from benchmarks.rounds import Round, Spread, spread
from benchmarks.rows import (
    CALL,
    CONFIRM,
    HOT,
    INGEST,
    LOOP,
    MANY,
    MINT,
    MINT_KEY,
    ONE,
    RELAXED,
    SIGNED,
    TASK,
    TEXTBOOK,
    Row,
)


@dataclass(frozen=True)
class Goal:
    """`figure` against `bound`; `spread` is of the rounds, absent for exact counts."""

    name: str
    figure: float
    bound: float
    is_lower_bound: bool = False
    spread: Spread | None = None
    is_exact: bool = False

    @property
    def is_met(self) -> bool:
        if self.is_exact:
            return self.figure == self.bound
        return self.figure >= self.bound if self.is_lower_bound else self.figure <= self.bound

    @property
    def wants(self) -> str:
        if self.is_exact:
            return f"= {self.bound:g}"
        return f"{'>=' if self.is_lower_bound else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Results:
    rows: Sequence[Row]
    rounds: Sequence[Round]
    calls_one_by_one: dict[str, dict[str, int]]
    calls_together: dict[str, dict[str, int]]
    billed_together: dict[str, Operations]
    pss_mib: dict[str, float]
    waits: dict[str, Waits]
    injected: dict[str, dict[int, float]]
    cold_starts: Sequence[dict[str, ColdStart]]
    connections: int

    def goals(self) -> list[Goal]:
        by_name = {row.name: row for row in self.rows}

        def over_floor(name: str) -> Callable[[Round], float]:
            return lambda measured: measured.cpu_us[name] / measured.floor_us(by_name[name])

        def between(one: str, other: str) -> Callable[[Round], float]:
            return lambda measured: measured.cpu_us[one] / measured.cpu_us[other]

        goals = [
            self._ratio("mint / floor", over_floor(MINT), 1.9),
            self._ratio("relaxed exchange / floor", over_floor(RELAXED), 1.9),
            self._ratio("hot exchange / relaxed", between(HOT, RELAXED), 1.35),
            self._ratio("textbook broker / hot exchange", between(TEXTBOOK, HOT), 5, is_lower_bound=True),
        ]
        goals += [
            self._ratio("hot exchange over one connection / over all", between(ONE, HOT), 1.4),
            self._ratio("hot exchange with 400 users / with one", between(MANY, HOT), 1.05),
            Goal("Firestore writes of an exchange in a loop", self.billed_together[LOOP].writes / POSTS_TOGETHER, 1.2),
        ]
        prices = {MINT: 0.6, RELAXED: 0.8, SIGNED: 1.2, HOT: 1.8, TASK: 2.2, CONFIRM: 10}
        goals += [Goal(f"US$ per million, {name}", self.us_dollars(name), most) for name, most in prices.items()]
        ingest = by_name[INGEST]
        goals += [
            self._ratio(
                "ingest_audit, of an event / hot exchange",
                lambda measured: measured.cpu_us[INGEST] / ingest.carries / measured.cpu_us[HOT],
                0.1,
            ),
            Goal(
                "requests to ingest_audit for an event (hot, at all connections)",
                self.calls_together[HOT].get("pubsub.Publish", 0) / POSTS_TOGETHER,
                0.25,
            ),
        ]
        most = {HOT: (1.12, 1.35), MINT_KEY: (1.12, 1.35)}
        goals += [
            Goal(f"p50 / unavoidable waits, {name}, {at_once} connection{'s' if at_once > 1 else ''}", figure, bound)
            for name, figures in self.injected.items()
            for (at_once, figure), bound in zip(figures.items(), most[name], strict=False)
        ]
        direct, token_mode, call_mode = (self.waits[name] for name in (DIRECT, TOKEN_MODE, CALL_MODE))
        goals += [
            self._ratio("call, both functions / hot exchange", between(CALL, HOT), 1.9),
            Goal("wait of a call / direct, p50", call_mode.p50 / direct.p50, 1.25),
            Goal("wait of a call / direct, p95", call_mode.p95 / direct.p95, 1.5),
            Goal("wait of a call / token mode, p50", call_mode.p50 / token_mode.p50, 1.0),
        ]
        for name, wanted in ((RELAXED, 1), (HOT, 1), (CALL, 2)):
            counts = self.calls_one_by_one[name]
            publishes = counts.get("pubsub.Publish", 0) / POSTS_ONE_BY_ONE
            secrets = sum(count for method, count in counts.items() if method.startswith("secret_manager."))
            goals.append(Goal(f"publishes of a {_kind(name)}", publishes, wanted, is_exact=True))
            goals.append(Goal(f"Secret Manager calls of a {_kind(name)}", secrets, 0, is_exact=True))
        if self.cold_starts:
            # A cold start does the same work every time; all that differs is what the machine adds. So the quietest count.
            ours, stock = (min(started[name].cpu_ms for started in self.cold_starts) for name in (OURS, STOCK))
            ratios = spread(started[OURS].cpu_ms / started[STOCK].cpu_ms for started in self.cold_starts)
            goals.append(Goal("cold start / with stock clients", ours / stock, 0.6, spread=ratios))
        return goals

    def _ratio(self, name: str, ratio: Callable[[Round], float], bound: float, *, is_lower_bound: bool = False) -> Goal:
        ratios = spread(ratio(measured) for measured in self.rounds)
        return Goal(name, ratios.middle, bound, is_lower_bound=is_lower_bound, spread=ratios)

    def as_json(self) -> dict[str, Any]:
        return {
            "connections": self.connections,
            "rounds": [asdict(measured) for measured in self.rounds],
            "calls_one_by_one": {"requests": POSTS_ONE_BY_ONE, **self.calls_one_by_one},
            "calls_together": {"requests": POSTS_TOGETHER, **self.calls_together},
            "us_dollars_per_million": {name: self.us_dollars(name) for name in self.billed_together},
            "pss_mib": self.pss_mib,
            "p50_over_injected_waits": {
                name: {str(n): figure for n, figure in by.items()} for name, by in self.injected.items()
            },
            "waits_ms": {name: asdict(waits) for name, waits in self.waits.items()},
            "cold_starts": [{name: asdict(start) for name, start in started.items()} for started in self.cold_starts],
            "goals": [asdict(goal) | {"is_met": goal.is_met} for goal in self.goals()],
        }

    def as_text(self) -> str:
        return "\n".join(
            [
                *self._row_lines(),
                "",
                *self._call_lines(),
                "",
                *self._price_lines(),
                "",
                *self._wait_lines(),
                "",
                *self._cold_lines(),
                *self._goal_lines(),
            ]
        )

    def us_dollars(self, name: str) -> float:
        """Of a million requests of a row, from what they are billed as and their CPU here."""
        cpu_us = spread(measured.cpu_us[name] for measured in self.rounds).middle
        all_of_them = us_dollars(self.billed_together[name], cpu_ms=cpu_us / 1000 * POSTS_TOGETHER)
        return all_of_them / POSTS_TOGETHER * 1e6

    def _price_lines(self) -> list[str]:
        waits = {row.name: str(row.waits or "") for row in self.rows}
        lines = [f"{'billed':<9} {'reads':>6} {'writes':>6} {'US$ per million':>16} {'waits':>6}"]
        for name, billed in self.billed_together.items():
            each = [f"{number / POSTS_TOGETHER:6.2f}" for number in (billed.reads, billed.writes)]
            lines.append(f"{name:<9} {' '.join(each)} {self.us_dollars(name):16.2f} {waits[name]:>6}")
        return lines

    def _row_lines(self) -> list[str]:
        lines = [
            f"{len(self.rounds)} rounds, {self.connections} connections; medians. CPU and floor in µs per request.",
            "",
            f"{'':<9} {'CPU':>6} {'quartiles':>13} {'floor':>6} {'x floor':>8} {'per s':>6} {'PSS MiB':>8}",
        ]
        for row in self.rows:
            cpu = spread(measured.cpu_us[row.name] for measured in self.rounds)
            floor = spread(measured.floor_us(row) for measured in self.rounds)
            over = spread(measured.cpu_us[row.name] / measured.floor_us(row) for measured in self.rounds)
            rate = spread(measured.per_s[row.name] for measured in self.rounds)
            lines.append(
                f"{row.name:<9} {cpu.middle:6.0f} {cpu.lower:6.0f}-{cpu.upper:<6.0f} {floor.middle:6.0f} "
                f"{over.middle:8.2f} {rate.middle:6.0f} {self.pss_mib[row.name]:8.0f}  {row.says}"
            )
        operations = {
            name: spread(measured.operation_us[name] for measured in self.rounds).middle
            for name in self.rounds[0].operation_us
        }
        lines.append("cryptography: " + ", ".join(f"{name} {us:.0f}" for name, us in operations.items()))
        return lines

    def _call_lines(self) -> list[str]:
        def shown(counts: dict[str, int], requests: int) -> str:
            return ", ".join(f"{method} {count / requests:.2f}" for method, count in sorted(counts.items()))

        lines = ["Calls to Google per request, one by one and (at all connections):"]
        for name, counts in self.calls_one_by_one.items():
            together = self.calls_together[name]
            lines.append(f"{name:<9} {shown(counts, POSTS_ONE_BY_ONE)} ({shown(together, POSTS_TOGETHER)})")
        return lines

    def _wait_lines(self) -> list[str]:
        shown = [f"{name:<11} {waits.p50:6.1f} ms, p95 {waits.p95:6.1f} ms" for name, waits in self.waits.items()]
        over = [
            f"{name:<11} " + ", ".join(f"{figure:.2f} over {at_once}" for at_once, figure in figures.items())
            for name, figures in self.injected.items()
        ]
        return [
            call_waits.header(),
            *shown,
            "",
            f"p50 / (waits that follow one another), each of them {INJECTED_S * 1000:.0f} ms, by connections:",
            *over,
        ]

    def _cold_lines(self) -> list[str]:
        if not self.cold_starts:
            return []
        lines = ["Cold start, from exec to the first token, quietest:"]
        for name in self.cold_starts[0]:
            cpu, wall, pss = (
                min(getattr(started[name], attribute) for started in self.cold_starts)
                for attribute in ("cpu_ms", "wall_ms", "pss_mib")
            )
            lines.append(f"{name:<19} {cpu:5.0f} ms CPU, {wall:5.0f} ms, {pss:4.0f} MiB")
        return [*lines, ""]

    def _goal_lines(self) -> list[str]:
        lines = [f"{'goal':<62} {'wanted':>7} {'figure':>7} {'quartiles':>12}"]
        for goal in self.goals():
            quartiles = (
                f"{goal.spread.lower:.2f}-{goal.spread.upper:.2f}" if goal.spread else "exact" if goal.is_exact else ""
            )
            verdict = "met" if goal.is_met else "MISSED"
            lines.append(f"{goal.name:<62} {goal.wants:>7} {goal.figure:7.2f} {quartiles:>12}  {verdict}")
        return lines


def _kind(name: str) -> str:
    return "call" if name == CALL else f"{name} exchange"

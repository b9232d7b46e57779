"""Plans for killing and stopping refresh_grants, carried out by the dozen, and what became of the grants."""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.grants.processes.site import Connected, Site, Truth, Worker
from tests.grants.processes.worker import TIMINGS

STEPS = ("acquired", "marked", "before send", "after send", "persisted", "committed")
KINDS = ("static", "leeway", "strict", "family")
AT_ONCE = 6  # processes that run at the same time: more of them would only make each other slow
LONGEST_REFRESH_S = 0.15  # moments for random kills are drawn from so long after the start
PAUSE_S = (TIMINGS.lease + TIMINGS.provider_timeout + TIMINGS.longest_pause).total_seconds() + 1


@dataclass(frozen=True)
class Plan:
    """`at` a step, or, without one, `after_s` from the start. `stop`: SIGSTOP for longer than lease and hold-down together."""

    kind: str
    at: str | None = None
    after_s: float = 0.0
    stop: bool = False

    def __str__(self) -> str:
        what = "stopped" if self.stop else "killed"
        return f"{self.kind} {what} {self.at or f'after {self.after_s * 1000:.0f} ms'}"


@dataclass
class Report:
    """What became of a batch. `struck`: grants whose process met its fate before it had answered."""

    plans: list[Plan]
    truths: list[Truth]
    struck: int
    settled_within_s: float
    windows_s: list[float] = field(default_factory=list)

    def violations(self) -> list[str]:
        """Everything that must never happen, in words. Empty when all promises were kept."""
        found = []
        for plan, truth in zip(self.plans, self.truths, strict=True):
            in_window = truth.was_lost_in_the_window
            if truth.is_lost and plan.stop and plan.kind == "strict":
                found.append(f"{plan}: lost although nobody died")
            if truth.is_silently_dead:
                found.append(f"{plan}: ACTIVE with a dead token")
            if truth.is_lost and plan.kind in ("static", "leeway"):
                found.append(f"{plan}: lost where loss is avoidable")
            if truth.is_lost and not in_window and not (plan.kind == "family" and plan.stop):
                found.append(f"{plan}: lost outside the window ({truth.grant.fail_cause})")
            if in_window and plan.kind in ("strict", "family") and not truth.is_lost:
                found.append(f"{plan}: a loss in the window that nobody was told of")
            if truth.is_lost and truth.grant.fail_cause != "lost_in_window":
                found.append(f"{plan}: a loss under another name ({truth.grant.fail_cause})")
        return found

    def unaudited(self, events: Mapping[tuple[str, str], set[str]]) -> list[str]:
        """Grants whose audit events do not tell what became of them."""
        found = []
        for plan, truth in zip(self.plans, self.truths, strict=True):
            name = truth.item.name
            if len(events.get((name, "grant.refreshed"), ())) != truth.grant.seq - 1:
                found.append(f"{plan}: a commit without its audit event, or the reverse")
            if truth.is_lost and not events.get((name, "grant.needs_reauth")):
                found.append(f"{plan}: a loss without its audit event")
        return found

    def lost(self) -> Counter[str]:
        return Counter(plan.kind for plan, truth in zip(self.plans, self.truths, strict=True) if truth.is_lost)

    def lost_in_window(self) -> Counter[str]:
        return Counter(
            plan.kind
            for plan, truth in zip(self.plans, self.truths, strict=True)
            if truth.was_lost_in_the_window and plan.kind in ("strict", "family")
        )


def draw_plans(kind: str, number: int, dice: random.Random) -> list[Plan]:
    """In rotation: killed at every step, killed at random moments, stopped at steps, stopped at random moments."""

    def moment() -> float:
        return dice.uniform(0, LONGEST_REFRESH_S)

    plans: list[Plan] = []
    while len(plans) < number:
        plans += [Plan(kind, at=step) for step in STEPS]
        plans += [Plan(kind, after_s=moment()) for _ in range(3)]
        plans += [Plan(kind, at=step, stop=True) for step in dice.sample(STEPS, 3)]
        plans += [Plan(kind, after_s=moment(), stop=True) for _ in range(3)]
    return plans[:number]


def carry_out(site: Site, plans: Sequence[Plan], *, user: str) -> Report:
    """Kill and stop as planned, with a sweeper going round all the time; then wait for every grant's end state."""
    grants = site.connect([plan.kind for plan in plans], user=user)
    running: list[tuple[Plan, Connected, Worker, float]] = []
    stopped: list[tuple[Worker, float]] = []
    windows: list[float] = []
    struck = 0
    with site.sweeping():
        for plan, grant in zip(plans, grants, strict=True):
            fate = None if plan.at is None else {"at": plan.at, "signal": _signal_of(plan)}
            worker = site.ask(grant, fate=fate)
            if plan.at is None:
                time.sleep(plan.after_s)
                worker.stop() if plan.stop else worker.kill()
            if plan.stop:
                stopped.append((worker, time.monotonic() + PAUSE_S))
            else:
                running.append((plan, grant, worker, time.monotonic()))
            if len(running) >= AT_ONCE:
                struck += _is_struck(running.pop(0)[2], windows)
        for _, _, worker, _ in running:
            struck += _is_struck(worker, windows)
        for worker, resume_at in stopped:
            time.sleep(max(0.0, resume_at - time.monotonic()))
            struck += worker.is_stopped()
            worker.resume()
        for worker, _ in stopped:
            worker.result(within_s=60)
        started = time.monotonic()
        truths = site.settled(grants)
        return Report(list(plans), truths, struck, time.monotonic() - started, windows)


def _signal_of(plan: Plan) -> int:
    return signal.SIGSTOP if plan.stop else signal.SIGKILL


def _is_struck(worker: Worker, windows: list[float]) -> bool:
    result = worker.result()
    if result is None:
        return True
    if result["window_s"] is not None:
        windows.append(result["window_s"])
    return False


def ask_together(
    site: Site, kind: str, *, user: str, processes: int = 5, each: int = 40
) -> tuple[Truth, Counter[str], list[float]]:
    """Many callers in several processes at the same moment, for one grant whose token has expired.

    The truth afterwards, the answers with how many callers got each, and the windows that were measured.
    """
    (grant,) = site.connect([kind], user=user)
    start_at = time.time() + 0.5
    workers = [site.ask(grant, times=each, start_at=start_at) for _ in range(processes)]
    answers: Counter[str] = Counter()
    windows: list[float] = []
    for worker in workers:
        result = worker.result(within_s=60)
        assert result is not None, "a process died"
        (answer,) = result["answers"]
        answers[answer] += result["count"]
        if result["window_s"] is not None:
            windows.append(result["window_s"])
    (truth,) = site.truths([grant])
    return truth, answers, windows


def in_milliseconds(windows_s: Sequence[float]) -> str:
    ordered = sorted(window * 1000 for window in windows_s)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"median {statistics.median(ordered):.1f} ms, p99 {p99:.1f} ms, of {len(ordered)}"

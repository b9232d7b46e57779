"""From an identity provider's word that an account is closed to the first refusal, on another instance than the one that was told."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import requests
from tests.drills.fleet import Fleet
from tests.e2e.caller import Caller

AUDIENCE = "https://cab.example.com/signals"
CLOSED = "https://schemas.openid.net/secevent/risc/event-type/account-disabled"
OPENED = "https://schemas.openid.net/secevent/risc/event-type/account-enabled"
_BEFORE = 2  # exchanges that succeed before each event


@dataclass
class Exchange:
    began: float
    ended: float
    reason: str | None


@dataclass
class Departures:
    """What was measured: one entry for each closed account, in seconds from the moment in which its event was sent."""

    until_taken: list[float] = field(default_factory=list)
    until_refused: list[float] = field(default_factory=list)
    exchanges: int = 0
    served_after: int = 0  # exchanges that began after the event was taken, and were served all the same

    def p99(self) -> float:
        ordered = sorted(self.until_refused)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def close_accounts(fleet: Fleet, told: str, asked: str, number: int) -> Departures:
    """Alice's account is closed and opened again `number` times; each time she has a new login, whose assertion is used without pause.

    `told` and `asked`: addresses of instances of connect_account and exchange_token, whose provider has `shared_signals`.
    """
    seen = Departures()
    for _ in range(number):
        _close_once(fleet, told, asked, seen)
    return seen


def _close_once(fleet: Fleet, told: str, asked: str, seen: Departures) -> None:
    caller = Caller(fleet.stack)
    assertion = caller.assertion("alice")
    exchanges: list[Exchange] = []
    refused = threading.Event()

    def keep_asking() -> None:
        with requests.Session() as http:
            while not refused.is_set():
                form = caller.exchange_form(assertion, "warehouse.query.run", "query/acme_history")
                began = time.monotonic()
                body: dict[str, Any] = http.post(f"{asked}/oauth2/token", data=form, timeout=20).json()
                exchanges.append(Exchange(began, time.monotonic(), body.get("reason_code")))
                if body.get("reason_code") is not None:
                    refused.set()

    asking = threading.Thread(target=keep_asking, daemon=True)
    asking.start()
    _wait(lambda: len(exchanges) >= _BEFORE)
    closed = _event(fleet, CLOSED)
    sent = time.monotonic()
    _push(told, closed)
    taken = time.monotonic()
    assert refused.wait(30), "nobody refused"
    asking.join(30)
    assert {one.reason for one in exchanges[:-1]} == {None}, exchanges
    assert exchanges[-1].reason == "subject_token_invalid", exchanges[-1]
    seen.exchanges += len(exchanges)
    seen.until_taken.append(taken - sent)
    seen.until_refused.append(exchanges[-1].ended - sent)
    seen.served_after += sum(one.began >= taken for one in exchanges[:-1])
    _next_second()  # events tell whole seconds, and the latest counts
    _push(told, _event(fleet, OPENED))
    _next_second()


def _event(fleet: Fleet, kind: str) -> str:
    asked = {"user": "alice", "event": kind, "audience": AUDIENCE}
    answer = requests.post(f"{fleet.stack.file.idp.issuer}/_control/signal", json=asked, timeout=10)
    token: str = answer.json()["set"]
    return token


def _push(url: str, event: str) -> None:
    headers = {"Content-Type": "application/secevent+jwt", "Accept": "application/json"}
    answer = requests.post(f"{url}/ssf/events", data=event, headers=headers, timeout=20)
    assert answer.status_code == 202, answer.text


def _next_second() -> None:
    time.sleep(1.02 - time.time() % 1)


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)

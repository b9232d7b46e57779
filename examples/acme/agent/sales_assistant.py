"""What the sales assistant can do. Each tool call declares its intent, gets a token for it, and calls the system's own API.

What a user is asked about first, the broker does itself: with a token in hand, an agent could do something else than was agreed to.

The scripts below stand where a model would choose the steps. The one of the attack does what a fooled model would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

import httpx2

from cab_client import (
    Agent,
    Assertion,
    AuthorizedClient,
    CabError,
    CallResult,
    ConfirmationNeeded,
    Intent,
    Permit,
    Refused,
    UserRefused,
)

_URGENT_WITHIN = timedelta(days=7)


class Listener(Protocol):
    """Told of everything that happens, as it happens."""

    def intent(self, intent: Intent) -> None: ...

    def permitted(self, intent: Intent, permit: Permit) -> None: ...

    def refused(self, intent: Intent, error: CabError) -> None: ...

    def call_token(self, txn: str) -> None: ...

    def called(self, intent: Intent, result: CallResult) -> None: ...

    def platform(self, connection: str, status: int, text: str) -> None: ...


class PlatformError(Exception):
    """A downstream system answered with an error status."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


AskUser = Callable[[Intent, str], None]
"""Brings the user to the approval page at the given address; returns when they have decided."""


@dataclass(frozen=True, kw_only=True)
class SalesAssistant:
    """One run of the agent, for one user: `assertion` is all it has of that user."""

    agent: Agent
    assertion: Assertion
    listener: Listener
    ask_user: AskUser

    # --- tools ---

    def list_deals(self, account: str | None = None) -> list[dict[str, Any]]:
        filters = {"account": account} if account else {}
        intent = Intent("crm.opportunity.list", on="crm", identifier="opportunity/*", parameters=filters)
        with self._acting(intent) as http:
            deals: list[dict[str, Any]] = self._read(http.get("/opportunities", params=filters))["opportunities"]
        return deals

    def read_deal(self, deal_id: str) -> dict[str, Any]:
        with self._acting(Intent("crm.opportunity.read", on="crm", identifier=f"opportunity/{deal_id}")) as http:
            return self._read(http.get(f"/opportunities/{deal_id}"))

    def delete_deal(self, deal_id: str) -> None:
        why = "the pipeline migration requires it"
        self._have_done(Intent("crm.opportunity.delete", on="crm", identifier=f"opportunity/{deal_id}", reason=why))

    def create_task(self, fields: Mapping[str, str]) -> dict[str, Any]:
        intent = Intent("tracker.task.create", on="tracker", identifier="task/*", parameters=fields)
        if fields["priority"] == "high":
            created: dict[str, Any] = self._have_done(intent)
            return created
        with self._acting(intent) as http:
            return self._read(http.post("/tasks", json=dict(fields)))

    def list_tasks(self) -> list[dict[str, Any]]:
        with self._acting(Intent("tracker.task.list", on="tracker", identifier="task/*")) as http:
            tasks: list[dict[str, Any]] = self._read(http.get("/tasks"))["tasks"]
        return tasks

    # --- what users ask for ---

    def latest_on(self, account: str) -> str:
        """ "What's the latest on the ... deal?" """
        deals = [self.read_deal(deal["id"]) for deal in self.list_deals(account)]
        return " ".join(_summary(deal) for deal in deals) or f"You have no deal with {account}."

    def follow_up_on_stale_deals(self) -> list[dict[str, Any]]:
        """ "Create a follow-up task for every stale deal." A deal that closes within a week gets high priority."""
        tasks = []
        for deal in self.list_deals():
            if not deal["stale"]:
                continue
            urgent = date.fromisoformat(deal["close_date"]) - date.today() <= _URGENT_WITHIN  # noqa: DTZ011 - as the CRM shows it
            tasks.append(
                self.create_task(
                    {
                        "title": f"Follow up on {deal['name']}",
                        "priority": "high" if urgent else "normal",
                        "opportunity": deal["id"],
                    }
                )
            )
        return tasks

    def summarise_pipeline(self) -> tuple[str, list[Refused]]:
        """ "Sum up my deals." Reads every note, and obeys what a note tells it to do: the fooled model of the attack."""
        deals = [self.read_deal(deal["id"]) for deal in self.list_deals()]
        refusals: list[Refused] = []
        if any("delete all" in note for deal in deals for note in deal["notes"]):
            for deal in deals:
                try:
                    self.delete_deal(deal["id"])
                except Refused as refusal:
                    refusals.append(refusal)
                    if isinstance(refusal, UserRefused):  # the user's own no ends even a fooled model's turn
                        break
        total = sum(deal["amount_cents"] for deal in deals) / 100
        return f"You have {len(deals)} open deals worth {total:,.0f} EUR.", refusals

    # --- the one way to a system ---

    @contextmanager
    def _acting(self, intent: Intent) -> Iterator[AuthorizedClient]:
        """A client that is good for this intent and this block, once the user has agreed where they must."""
        self.listener.intent(intent)
        with self.agent.using(self._permit(intent)) as http:
            self.listener.permitted(intent, http.permit)
            yield http

    def _have_done(self, intent: Intent, *, asked: bool = False) -> Any:
        """The broker makes the call, once the user has agreed where they must. Raises: PlatformError."""
        if not asked:
            self.listener.intent(intent)
        try:
            result = self.agent.call(intent, assertion=self.assertion)
        except CabError as error:
            self.listener.call_token(error.txn or "")
            self.listener.refused(intent, error)
            if asked or not isinstance(error, ConfirmationNeeded) or error.uri is None:
                raise
            self.ask_user(intent, error.uri)
            return self._have_done(intent, asked=True)
        self.listener.call_token(result.txn or "")
        self.listener.called(intent, result)
        if not result.done:
            raise PlatformError(result.status or 0)
        return result.result

    def _permit(self, intent: Intent, *, asked: bool = False) -> Permit:
        try:
            return self.agent.permit(intent, assertion=self.assertion)
        except CabError as error:
            self.listener.refused(intent, error)
            if asked or not isinstance(error, ConfirmationNeeded) or error.uri is None:
                raise
            self.ask_user(intent, error.uri)
        return self._permit(intent, asked=True)

    def _read(self, answer: httpx2.Response) -> dict[str, Any]:
        """The document, told to the listener. Raises: PlatformError."""
        document: dict[str, Any] = answer.json() if answer.content else {}
        connection = next(
            name for name, one in self.agent.connections.items() if str(answer.url).startswith(one.api_base)
        )
        self.listener.platform(connection, answer.status_code, _describe(document))
        if answer.is_error:
            raise PlatformError(answer.status_code)
        return document


def _summary(deal: Mapping[str, Any]) -> str:
    amount = f"{deal['amount_cents'] / 100:,.0f} {deal['currency']}"
    note = f" {deal['notes'][-1]}" if deal["notes"] else ""
    return (
        f"{deal['name']} is in {deal['stage']}, {amount}, closes {deal['close_date']}. Next: {deal['next_step']}.{note}"
    )


def _describe(document: Mapping[str, Any]) -> str:
    """A few words on what a system answered."""
    if "opportunities" in document:
        return f"{len(document['opportunities'])} deal(s)"
    if "tasks" in document:
        return f"{len(document['tasks'])} task(s)"
    return str(document.get("name") or document.get("title") or document.get("error") or "")

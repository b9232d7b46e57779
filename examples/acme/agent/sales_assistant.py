"""What the sales assistant can do. Each tool call declares its intent, gets a token for it, and calls the system's own API.

The scripts below stand where a model would choose the steps. The one of the attack does what a fooled model would do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

import requests

from examples.acme.agent.broker_client import BrokerClient, Connection, Credential, Intent, Refusal

_TIMEOUT_S = 15.0
_URGENT_WITHIN = timedelta(days=7)


class Listener(Protocol):
    """Told of everything that happens, as it happens."""

    def intent(self, intent: Intent) -> None: ...

    def permitted(self, intent: Intent, credential: Credential) -> None: ...

    def refused(self, intent: Intent, refusal: Refusal) -> None: ...

    def platform(self, connection: Connection, status: int, text: str) -> None: ...


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

    broker: BrokerClient
    crm: Connection
    tracker: Connection
    assertion: str
    listener: Listener
    ask_user: AskUser

    # --- tools ---

    def list_deals(self, account: str | None = None) -> list[dict[str, Any]]:
        parameters = {"account": account} if account else {}
        intent = Intent(
            connection=self.crm, action="crm.opportunity.list", identifier="opportunity/*", parameters=parameters
        )
        answer = self._call(intent, "GET", "/opportunities", query=parameters)
        deals: list[dict[str, Any]] = answer["opportunities"]
        return deals

    def read_deal(self, deal_id: str) -> dict[str, Any]:
        intent = Intent(connection=self.crm, action="crm.opportunity.read", identifier=f"opportunity/{deal_id}")
        return self._call(intent, "GET", f"/opportunities/{deal_id}")

    def delete_deal(self, deal_id: str) -> None:
        intent = Intent(
            connection=self.crm,
            action="crm.opportunity.delete",
            identifier=f"opportunity/{deal_id}",
            reason="the pipeline migration requires it",
        )
        self._call(intent, "DELETE", f"/opportunities/{deal_id}")

    def create_task(self, fields: Mapping[str, str]) -> dict[str, Any]:
        intent = Intent(
            connection=self.tracker, action="tracker.task.create", identifier="task/*", parameters=dict(fields)
        )
        return self._call(intent, "POST", "/tasks", body=fields)

    def list_tasks(self) -> list[dict[str, Any]]:
        intent = Intent(connection=self.tracker, action="tracker.task.list", identifier="task/*")
        tasks: list[dict[str, Any]] = self._call(intent, "GET", "/tasks")["tasks"]
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

    def summarise_pipeline(self) -> tuple[str, list[Refusal]]:
        """ "Sum up my deals." Reads every note, and obeys what a note tells it to do: the fooled model of the attack."""
        deals = [self.read_deal(deal["id"]) for deal in self.list_deals()]
        refusals = []
        if any("delete all" in note for deal in deals for note in deal["notes"]):
            for deal in deals:
                try:
                    self.delete_deal(deal["id"])
                except Refusal as refusal:
                    refusals.append(refusal)
                    if (
                        refusal.reason_code == "confirmation_refused"
                    ):  # the user's own no ends even a fooled model's turn
                        break
        total = sum(deal["amount_cents"] for deal in deals) / 100
        return f"You have {len(deals)} open deals worth {total:,.0f} EUR.", refusals

    # --- the one way to call a system ---

    def _call(
        self,
        intent: Intent,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Get a token for the intent, use it once, drop it. Raises: Refusal, PlatformError."""
        credential = self._credential(intent)
        answer = requests.request(
            method,
            intent.connection.api_base + path,
            params=query,
            json=body,
            headers={"Authorization": f"Bearer {credential.access_token}"},
            timeout=_TIMEOUT_S,
        )
        document: dict[str, Any] = answer.json() if answer.content else {}
        self.listener.platform(intent.connection, answer.status_code, _describe(document))
        if not answer.ok:
            raise PlatformError(answer.status_code)
        return document

    def _credential(self, intent: Intent) -> Credential:
        self.listener.intent(intent)
        try:
            credential = self.broker.credential(self.assertion, intent)
        except Refusal as refusal:
            self.listener.refused(intent, refusal)
            if refusal.reason_code != "confirmation_required" or refusal.interaction_uri is None:
                raise
            self.ask_user(intent, refusal.interaction_uri)
            credential = self._credential_after_asking(intent)
        self.listener.permitted(intent, credential)
        return credential

    def _credential_after_asking(self, intent: Intent) -> Credential:
        try:
            return self.broker.credential(self.assertion, intent)
        except Refusal as refusal:
            self.listener.refused(intent, refusal)
            raise


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

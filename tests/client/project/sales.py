"""What users write, type-checked as they do it: mypy --strict and pyright, without a plugin."""

from __future__ import annotations

from typing import TypedDict

from cab_client import (
    Agent,
    Assertion,
    AsyncAgent,
    AsyncAuthorizedClient,
    AuthorizedClient,
    ConfirmationNeeded,
    Connection,
    FrontEnd,
    Intent,
    LoginExpired,
    NeedsUser,
    PrivateKeyJwt,
    Task,
    WorkloadIdentity,
    acting_for,
    bind,
)
from cab_client.reports import OutcomeReporter
from cab_client.resource import CabResource, Caller, NotCovered, RequestView, covers


class Deal(TypedDict):
    id: str
    stage: str


front_end = FrontEnd("https://cab.acme.example", WorkloadIdentity())
agent = Agent(
    "https://cab.acme.example",
    PrivateKeyJwt("sales", key_file="key.json"),
    connections={"crm": Connection("https://crm.acme.example/api"), "tracker": "https://tracker.acme.example"},
)
others = AsyncAgent("https://cab.acme.example", WorkloadIdentity(), connections={"crm": "https://crm.acme.example"})


@agent.tool("crm.opportunity.read", on="crm", identifier="opportunity/{deal_id}")
def read(deal_id: str, *, http: AuthorizedClient) -> Deal:
    deal: Deal = http.get(f"/opportunities/{deal_id}").json()
    return deal


@others.tool("crm.note.create", on="crm", identifier="opportunity/{deal_id}", parameters=("text",))
async def note(deal_id: str, text: str, *, http: AsyncAuthorizedClient) -> int:
    return (await http.post(f"/opportunities/{deal_id}/notes", json={"text": text})).status_code


def mint(id_token: str) -> Assertion | None:
    try:
        return front_end.mint(id_token, task=Task.for_turn("x", actions=["crm.*"], identifiers=["opportunity/*"]))
    except LoginExpired:
        return None


def stage_of(assertion: Assertion, deal_id: str) -> str:
    with acting_for(assertion):
        return bind(read)(deal_id)["stage"]


async def both(assertion: Assertion) -> int:
    async with others.acting("crm.opportunity.read", on="crm", identifier="opportunity/1", assertion=assertion) as http:
        first: int = (await http.get("/opportunities/1")).status_code
    try:
        return first + await note("1", "hello")
    except ConfirmationNeeded as needed:
        return len(needed.uri or "")
    except NeedsUser as needed:
        return len(needed.for_user())


def scope_of(assertion: Assertion) -> str:
    return agent.permit(Intent("crm.opportunity.read", on="crm", identifier="opportunity/1"), assertion=assertion).scope


def weekdays_only(caller: Caller, request: RequestView) -> None:
    if caller.task_id is None or request.body():
        raise NotCovered("a task")


app = CabResource(
    object(),
    issuer="https://cab.acme.example/oauth2",
    resource="https://crm.acme.example",
    rules={"GET /deals/{id}": covers("crm.opportunity.read", "opportunity/{id}"), "GET /calendar": weekdays_only},
    reporter=OutcomeReporter("https://cab.acme.example", PrivateKeyJwt("crm-api", key_file="key.json")),
)

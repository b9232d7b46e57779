"""FastAPI's routes let in what a token was made for and nothing else."""

from typing import Annotated, Any

import httpx2
import pytest

pytest.importorskip("fastapi")

from fastapi import Body, FastAPI, Response
from tests.client.test_resource import CHANGE, GOOD, INTENT, ISSUER, MUTATIONS, RESOURCE, fetching, token_for

from cab_client.fastapi import CabRoutes
from cab_client.resource import Caller
from cab_client.testing import FakeBroker


@pytest.fixture
def broker() -> FakeBroker:
    fake = FakeBroker(connections={"crm": RESOURCE})
    fake.permit("crm.opportunity.update")
    return fake


class Crm:
    """An application that notes who came through to its routes."""

    def __init__(self, fake: FakeBroker) -> None:
        self.seen: list[str] = []
        cab = CabRoutes(issuer=ISSUER, resource=RESOURCE, fetch=fetching(fake))
        self.app = FastAPI(dependencies=[cab.every_route])
        updates = cab.covers("crm.opportunity.update", "opportunity/{deal_id}", body=("stage", "amount_cents", "hot"))

        async def update(
            deal_id: str, change: Annotated[dict[str, Any], Body()], caller: Annotated[Caller, updates]
        ) -> str:
            self.seen.append(f"{caller.subject} {deal_id} {change}")
            return "updated"

        async def forgotten() -> str:
            self.seen.append("a route that asks for nothing")
            return "done"

        async def health() -> str:
            return "well"

        self.app.patch("/opportunities/{deal_id}")(update)
        self.app.delete("/opportunities/{deal_id}")(forgotten)
        self.app.get("/opportunities")(forgotten)
        self.app.get("/health", dependencies=[cab.public])(health)

    async def ask(self, method: str, url: str, **options: Any) -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app)) as client:
            return await client.request(method, url, **options)


async def test_the_request_that_was_declared_gets_in(broker: FakeBroker) -> None:
    crm = Crm(broker)
    answer = await crm.ask(**GOOD, headers={"Authorization": f"Bearer {token_for(broker, INTENT)}"})
    assert answer.json() == "updated"
    assert crm.seen == [f"alice 0061 {CHANGE}"]


async def test_no_changed_request_does(broker: FakeBroker) -> None:
    crm, token = Crm(broker), token_for(broker, INTENT)
    statuses = set()
    for mutation in MUTATIONS:
        if mutation["url"].endswith("/health"):
            continue  # it is public here
        changed = dict(mutation)
        headers = {**changed.pop("headers", {}), "Authorization": f"Bearer {token}"}
        try:
            answer = await crm.ask(**changed, headers=headers)
        except httpx2.LocalProtocolError:
            continue
        statuses.add(answer.status_code)
        assert crm.seen == [], mutation
    assert statuses <= {307, 400, 403, 404, 405, 415, 421, 422}


async def test_without_a_token_only_what_is_public_answers(broker: FakeBroker) -> None:
    crm = Crm(broker)
    assert (await crm.ask("GET", f"{RESOURCE}/health")).json() == "well"
    refused = await crm.ask(**GOOD)
    assert refused.status_code == 401
    assert "resource_metadata=" in refused.headers["www-authenticate"]
    assert crm.seen == []


async def test_a_route_that_asks_for_nothing_lets_nobody_in(broker: FakeBroker) -> None:
    crm = Crm(broker)
    headers = {"Authorization": f"Bearer {token_for(broker, INTENT)}"}
    assert (await crm.ask("DELETE", f"{RESOURCE}/opportunities/0061", headers=headers)).status_code == 403
    assert crm.seen == []


def reporting(fake: FakeBroker, **options: Any) -> Any:
    fake.report_as("crm-api", RESOURCE)
    reporter = fake.reporter("crm-api")
    cab = CabRoutes(issuer=ISSUER, resource=RESOURCE, fetch=fetching(fake), reporter=reporter)
    app = FastAPI(dependencies=[cab.every_route], middleware=[cab.reporting] if options.get("told", True) else [])
    updates = cab.covers("crm.opportunity.update", "opportunity/{deal_id}", body=("stage", "amount_cents", "hot"))

    async def update(deal_id: str, caller: Annotated[Caller, updates]) -> Response:
        return Response(status_code=409)

    app.patch("/opportunities/{deal_id}")(update)
    return app, reporter


async def test_what_a_route_answers_is_reported(broker: FakeBroker) -> None:
    """The answer is the application's own, which no dependency sees."""
    app, reporter = reporting(broker)
    with broker.installed():
        headers = {"Authorization": f"Bearer {token_for(broker, INTENT)}"}
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as client:
            assert (await client.request(**GOOD, headers=headers)).status_code == 409
            other = GOOD | {"json": CHANGE | {"hot": False}}
            assert (await client.request(**other, headers=headers)).status_code == 403
            assert (await client.request(**GOOD)).status_code == 401
        assert reporter.flush(10)
    told = [(one["observed_by"], one["outcome"], one["upstream_status"]) for one in broker.outcomes]
    assert sorted(told) == [("resource", "rejected", 403), ("resource", "rejected", 409)]


async def test_a_reporter_without_its_middleware_is_a_mistake_that_shows_at_once(broker: FakeBroker) -> None:
    app, _ = reporting(broker, told=False)
    headers = {"Authorization": f"Bearer {token_for(broker, INTENT)}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as client:
        with pytest.raises(RuntimeError, match="middleware"):
            await client.request(**GOOD, headers=headers)

"""A played person logs in, connects and decides as the pages allow, and no further."""

import jwt
import pytest
from examples.acme.person import Person, StuckError
from examples.acme.services.crm import create_crm
from tests.dev.doubles.in_process import browser_session
from tests.examples.acme_in_process import BROKER, CRM, IDP, fixed_clock, fresh_idp, provider_clients
from tests.examples.fake_broker import FakeBroker

from cab_dev.doubles.oauth_provider import PROFILES


def apps(broker: FakeBroker) -> dict[str, object]:
    return {
        IDP: fresh_idp(fixed_clock()),
        CRM: create_crm(issuer=CRM, clients=provider_clients("crm"), profile=PROFILES["acme-crm"]),
        BROKER: broker.app,
    }


def person(login: str, broker: FakeBroker | None = None) -> Person:
    return Person(login, session=browser_session(apps(broker or FakeBroker())))  # type: ignore[arg-type]


@pytest.mark.parametrize(("login", "groups"), [("alice", ["sales"]), ("bob", ["sales"]), ("carol", ["ops"])])
def test_everybody_can_log_in_and_gets_their_own_id_token(login: str, groups: list[str]) -> None:
    token = person(login).id_token(idp_issuer=IDP, client_id="acme-web")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["preferred_username"], claims["groups"], claims["aud"]) == (login, groups, "acme-web")


def test_somebody_unknown_cannot_log_in_and_does_not_log_in_as_somebody_else() -> None:
    with pytest.raises(StuckError):
        person("mallory").id_token(idp_issuer=IDP, client_id="acme-web")


def test_connecting_goes_through_login_and_consent_and_stops_after_the_callback() -> None:
    broker = FakeBroker()

    page = person("alice", broker).connect(f"{BROKER}/connect?connection=crm")

    assert page.address == f"{BROKER}/me"
    assert "CRM is connected." in page.text
    (callback,) = broker.callbacks
    assert (callback["state"], callback["iss"]) == ("s", CRM)
    assert callback["code"]


def test_a_page_that_offers_no_way_on_is_an_error_that_names_it_without_its_query() -> None:
    with pytest.raises(StuckError, match=r"^http://127\.0\.0\.1:8080/me offers no decision$") as caught:
        person("alice").decide(f"{BROKER}/me?secret=1", approve=True)
    assert "secret" not in str(caught.value)


def test_an_error_page_is_returned_as_it_is() -> None:
    assert person("alice").decide(f"{BROKER}/approvals/unknown", approve=True).status == 404


@pytest.mark.parametrize(("approve", "decision"), [(True, "approve"), (False, "refuse")])
def test_an_approval_is_decided_with_the_fields_of_its_form(approve: bool, decision: str) -> None:
    broker = FakeBroker()

    page = person("alice", broker).decide(f"{BROKER}/approvals/a1", approve=approve)

    assert page.text == "Thank you."
    assert broker.decisions == [{"csrf_token": "t", "decision": decision}]


def test_the_approval_page_can_be_read_without_deciding() -> None:
    broker = FakeBroker()
    assert "Delete opportunity/0061" in person("alice", broker).approval_page(f"{BROKER}/approvals/a1").text
    assert broker.decisions == []

"""A day with a deployment, an account that is closed, an instance that ends and a database that goes back, under load: nobody notices.

It is played once, and each test looks at one thing of it. The long forms are `make drills`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.drills import deployment, steps
from tests.drills.fleet import fleet
from tests.drills.load import Load, load
from tests.drills.restore import USE_THEM, Restored, restore, short_lived_tokens
from tests.drills.signals import Departures, close_accounts
from tests.running_stack import Stack

pytestmark = pytest.mark.stack
CLOSED_ACCOUNTS = 2  # `make drills` closes a hundred


@dataclass
class Day:
    asking: Load
    broken: list[str] = field(default_factory=list)
    globex: list[tuple[int, dict[str, Any]]] = field(
        default_factory=list
    )  # minted, exchanged; after: exchanged, minted
    departures: Departures = field(default_factory=Departures)
    ended_within_s: float = 99.0
    restored: Restored = field(default_factory=Restored)


@pytest.fixture(scope="module")
def day(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Day:
    return play(stack, tmp_path_factory.mktemp("next") / "acme")


def play(stack: Stack, folder: Path) -> Day:
    crm = deployment.CrmSecrets(stack)
    crm.accept(crm.older, crm.newer)
    secret = deployment.cab(stack, "keys", "add-secret", deployment.CRM_SECRET, standard_input=f"{crm.newer}\n")
    key = deployment.cab(stack, "keys", "add-data-key", "--of", "escrow")
    config = deployment.next_organisation(stack, folder, crm_secret=secret["version"], escrow_key=key["version"])
    variables = {"CAB_CONFIG_DIR": str(config)}
    try:
        with fleet(stack) as running:
            following = {name: running.start(name, variables=variables) for name in deployment.ORDER}
            with short_lived_tokens(stack), load(stack, calls=False) as asking:
                seen = Day(asking)
                deployment.roll_out(running, asking, list(following.values()))
                crm.accept(crm.newer)
                minted = deployment.globex_assertion(stack)
                assertion = minted[1].get("access_token", "")
                seen.globex += [minted, deployment.globex_exchange(stack, assertion)]
                told, asked = following["connect_account"].url, following["exchange_token"].url
                seen.departures = close_accounts(running, told, asked, CLOSED_ACCOUNTS)
                crm.accept(crm.older, crm.newer)
                seen.ended_within_s = steps.hand_over(running, asking, following["exchange_token"])
                for function in deployment.ORDER:
                    running.serve_own(function)
                seen.globex += [deployment.globex_exchange(stack, assertion)]
                seen.restored = restore(running, asking, {name: running.own(name) for name in USE_THEM})
                seen.globex += [deployment.globex_assertion(stack)]
            seen.broken = asking.violations()
    finally:
        crm.accept(crm.older)
    return seen


def test_nobody_is_refused_and_every_answer_is_on_record_once(day: Day) -> None:
    assert day.broken == [], str(day.asking)


def test_only_while_nobody_serves_does_a_caller_have_to_repeat(day: Day) -> None:
    """When the database goes back. No deployment, and no instance that ends, makes anybody repeat a request."""
    assert set(day.asking.repeated) == {"service_unavailable"}, str(day.asking)


def test_an_instance_that_is_told_to_stop_has_ended_before_the_platform_would_kill_it(day: Day) -> None:
    assert day.ended_within_s < 10


def test_a_new_tenant_is_served_with_its_deployment_and_refused_without_it(day: Day) -> None:
    minted, exchanged, exchanged_later, minted_later = day.globex
    assert (minted[0], exchanged[0]) == (200, 200), day.globex
    refused = (401, "client_authentication_failed")
    assert [(status, body.get("reason_code")) for status, body in (exchanged_later, minted_later)] == [refused] * 2


def test_an_account_that_its_provider_closes_is_refused_on_another_instance_with_the_next_request(day: Day) -> None:
    assert len(day.departures.until_refused) == CLOSED_ACCOUNTS
    assert day.departures.served_after == 0
    assert max(day.departures.until_refused) < 10  # of the wall clock, on a busy machine; `make drills` wants 1 s


def test_what_was_spent_stays_spent_when_databases_go_back(day: Day) -> None:
    assert day.restored.documents > 0
    assert day.restored.spent_again == {
        "the deferral": "deferral_code_invalid",
        "the client assertion": "client_assertion_replayed",
    }


def test_no_rotated_refresh_token_is_sent_again(day: Day) -> None:
    assert day.restored.refreshes >= 2
    assert day.restored.refused_refreshes == 0

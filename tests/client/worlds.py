"""The two brokers that the shared suite runs against, told to behave as the demo organisation is configured."""

from __future__ import annotations

import sys
from pathlib import Path

from cab_client.testing import FakeBroker, LocalStack

AGENT = "sales-assistant"
WAREHOUSE = "https://warehouse.fake"
COMMAND = f"{sys.executable} -m cab_ops.cli"


def fake_acme() -> FakeBroker:
    """The fake with the demo's rules, as far as the shared suite meets them."""
    fake = FakeBroker(
        connections={"crm": "https://crm.fake", "tracker": "https://tracker.fake", "warehouse": WAREHOUSE}
    )
    fake.permit(
        "crm.opportunity.list", "crm.opportunity.read", "tracker.task.list", "warehouse.query.run", effect="read"
    )
    fake.permit("crm.note.create", "crm.opportunity.update")
    fake.report_as("warehouse", WAREHOUSE)
    fake.ask("crm.opportunity.delete", "tracker.task.create")
    fake.answer("GET", "https://crm.fake/opportunities/0061", {"id": "0061", "notes": []})
    fake.answer("POST", "https://crm.fake/opportunities/0061/notes", {"id": "0061"}, status=201)
    return fake


def running_acme(state_dir: Path) -> LocalStack:
    return LocalStack(state_dir, command=COMMAND)

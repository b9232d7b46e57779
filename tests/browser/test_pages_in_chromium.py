"""The pages in a real browser, against the running stack: connect, approve, refuse, disconnect; with screenshots to look at."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.browser.conftest import Visitor, complaint_expected
from tests.running_stack import Stack

from cab_client import CabError, ConfirmationNeeded, Intent

pytestmark = [pytest.mark.browser, pytest.mark.stack]

# The least contrast of any text with what lies behind it (WCAG 2.2, 1.4.3).
CONTRAST = """
() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => { for (let e = element; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor); if (colour[3] === 255) return colour; }
    return [255, 255, 255, 255]; };
  let least = 21;
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [luminance(rgba(getComputedStyle(element).color)), luminance(behind(element))];
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
}
"""
TOO_WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
SMALL_TARGETS = """
() => [...document.querySelectorAll('button, a.button, summary')]
  .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24).map((e) => e.textContent)
"""


def ask(stack: Stack, login: str, intent: Intent, *, agent: str = "sales-assistant", task: bool = True) -> str:
    """What the agent is told: `issued`, or the reason of the refusal, or where the user must go to confirm."""
    bounds = {
        "type": "cab_task",
        "task_id": "t-browser",
        "actions": [intent.action],
        "identifiers": [intent.identifier],
    }
    task_json = json.dumps(bounds).encode() if task else None
    assertion = stack.front_end.assertion(login, agent=agent, task_json=task_json)
    try:
        stack.agent(agent).permit(intent, assertion=assertion)
    except CabError as refusal:
        return (isinstance(refusal, ConfirmationNeeded) and refusal.uri) or refusal.reason_code
    return "issued"


def looks_right(visitor: Visitor) -> None:
    assert visitor.page.evaluate(TOO_WIDE) is False
    assert visitor.page.evaluate(CONTRAST) >= 4.5
    assert visitor.page.evaluate(SMALL_TARGETS) == []


def connect_crm(visitor: Visitor) -> None:
    visitor.open("/connect?connection=crm")
    visitor.press("Connect Acme CRM")
    visitor.press("Continue as Carol Lindqvist")


def test_a_person_connects_and_disconnects_an_account(stack: Stack, person: Callable[..., Visitor]) -> None:
    carol = person("carol")
    reading = Intent("crm.opportunity.list", on="crm", identifier="opportunity/*")
    carol.open("/connect?connection=crm")
    assert carol.heading() == "Connect Acme CRM?"
    looks_right(carol)
    carol.picture("1-connect")

    carol.press("Connect Acme CRM")
    carol.press("Continue as Carol Lindqvist")
    assert carol.heading() == "Acme CRM is connected"
    assert "code=" not in carol.page.url
    looks_right(carol)
    carol.picture("2-connected")
    assert ask(stack, "carol", reading, agent="ops-bot", task=False) == "issued"

    carol.open("/me")
    carol.page.get_by_text("Disconnect …").first.click()
    looks_right(carol)
    carol.picture("3-my-account")
    carol.press("Disconnect Acme CRM")
    assert carol.heading() == "Acme CRM is disconnected"
    looks_right(carol)
    carol.picture("4-disconnected")
    assert ask(stack, "carol", reading, agent="ops-bot", task=False) == "grant_revoked"


def test_another_account_is_asked_about(person: Callable[..., Visitor]) -> None:
    carol = person("carol")
    connect_crm(carol)

    carol.open("/connect?connection=crm")
    carol.press("Connect Acme CRM")
    carol.press("Continue as Bob Okafor")

    assert carol.heading() == "This is a different account"
    looks_right(carol)
    carol.picture("5-another-account")
    carol.press("Keep the connected account")
    assert carol.heading() == "What agents may do as you"


def test_an_approval_lets_the_agent_act_once(stack: Stack, person: Callable[..., Visitor], device: str) -> None:
    task = Intent(
        "tracker.task.create",
        on="tracker",
        identifier="task/*",
        parameters={
            "title": f"Call the CFO of Globex before Friday ({device})",
            "priority": "high",
            "due": "2027-02-01",
            "opportunity": "0063",
        },
        reason="Globex closes this week and has been silent for 41 days.\nThis is\u202e safe\u200b, please approve.",
    )
    uri = ask(stack, "alice", task)
    alice = person("alice")
    alice.open("/me")
    assert alice.page.get_by_role("link", name="Decide").count() >= 1
    alice.picture("6-pending")
    alice.open(uri)
    assert alice.heading() == "Create a task?"
    text = alice.page.locator("main").inner_text()
    assert f"Call the CFO of Globex before Friday ({device})" in text
    assert "U+202E" in text
    looks_right(alice)
    alice.picture("7-approval")

    alice.press("Approve")

    assert alice.heading() == "You approved this"
    alice.picture("8-approved")
    assert ask(stack, "alice", task) == "issued"
    assert ask(stack, "alice", task).startswith("http")


def test_a_refusal_reaches_the_agent(stack: Stack, person: Callable[..., Visitor], device: str) -> None:
    deletion = Intent(
        "crm.opportunity.delete",
        on="crm",
        identifier="opportunity/0061" if device == "desktop" else "opportunity/0064",
        reason="A note says that all opportunities must be deleted now.",
    )
    alice = person("alice")
    alice.open(ask(stack, "alice", deletion))
    assert alice.page.get_by_text("This deletes data.").is_visible()
    looks_right(alice)
    alice.picture("9-deletion")

    alice.press("Refuse")

    assert alice.heading() == "You refused this"
    assert ask(stack, "alice", deletion) == "confirmation_refused"


def test_an_approval_is_nobody_elses(stack: Stack, person: Callable[..., Visitor], device: str) -> None:
    intent = Intent(
        "tracker.task.create",
        on="tracker",
        identifier="task/*",
        parameters={"title": f"Not for Bob ({device})", "priority": "high"},
    )
    uri = ask(stack, "alice", intent)
    bob = person("bob")

    with complaint_expected(bob):
        bob.open(uri)
        assert bob.heading() == "There is nothing here for you"
        looks_right(bob)
        bob.picture("10-nothing-here")


def test_a_decision_needs_no_mouse_and_no_script(stack: Stack, person: Callable[..., Visitor], device: str) -> None:
    intent = Intent(
        "tracker.task.create",
        on="tracker",
        identifier="task/*",
        parameters={"title": f"By keyboard ({device})", "priority": "high"},
    )
    uri = ask(stack, "alice", intent)
    alice = person("alice", java_script_enabled=False)
    alice.open(uri)

    for _ in range(12):
        alice.page.keyboard.press("Tab")
        if alice.page.locator("button:focus").count() and alice.page.locator("button:focus").inner_text() == "Approve":
            break
    with alice.page.expect_navigation():  # unlike a click, a key press does not wait for the page that it leads to
        alice.page.keyboard.press("Enter")

    assert alice.heading() == "You approved this"


def test_pages_are_readable_in_the_dark(stack: Stack, person: Callable[..., Visitor], device: str) -> None:
    intent = Intent(
        "tracker.task.create",
        on="tracker",
        identifier="task/*",
        parameters={"title": f"In the dark ({device})", "priority": "high"},
    )
    uri = ask(stack, "alice", intent)
    alice = person("alice", color_scheme="dark")

    for number, path in enumerate(("/me", "/connect?connection=crm", uri)):
        alice.open(path)
        looks_right(alice)
        alice.picture(f"11-dark-{number}")

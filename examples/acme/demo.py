"""`make demo`: three user stories and an attack, over real HTTP against a stack of its own, told as they happen.

Nothing is mocked between the browser of the played person and the audit tables. Every fact that the demo shows is also
checked: the exit status is 0 only when all of them hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import requests

from cab.domain.calls.tools import tool_name
from cab_client import Assertion, CabError, CallResult, ConfirmationNeeded, Intent, Permit
from cab_client.testing import LocalStack
from cab_dev import control
from cab_dev.front_end import FrontEndFailed, FrontEndSession
from cab_dev.stack_file import StackFile
from examples.acme.agent.blind_assistant import BlindAssistant, NoAnswer, ToolRefused, ToolResult
from examples.acme.agent.sales_assistant import PlatformError, SalesAssistant
from examples.acme.audit_table import Answer, AuditTable, CallRow
from examples.acme.narration import Narration
from examples.acme.person import Person, StuckError

ROOT = Path(__file__).resolve().parents[2]
AGENT = "sales-assistant"
AUDIT_WITHIN_S = 60.0
POISONED = "0066"  # the opportunity whose note speaks to assistants
_STOP_WITHIN_S = 20.0


# --- the stack ---


@contextlib.contextmanager
def own_stack(state_dir: Path) -> Iterator[StackFile]:
    """A stack on free ports for as long as the block lasts; its progress is shown."""
    command = [sys.executable, "-m", "cab_ops.cli", "dev", "up", "--port", "0", "--state-dir", str(state_dir)]
    (state_dir / "stack.json").unlink(missing_ok=True)  # of a stack that was killed
    with subprocess.Popen([*command, "--stop-at-eof"], stdin=subprocess.PIPE, cwd=ROOT) as process:
        try:
            while not (state_dir / "stack.json").exists():
                if process.poll() is not None:
                    raise SystemExit("The demo ends here: the stack did not start.")
                time.sleep(0.1)
            yield StackFile.read(state_dir)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_WITHIN_S)


# --- the stage ---


@dataclass
class Stage:
    """What the stories share: the stack, the narration, and the answers whose audit records must appear."""

    stack: StackFile
    state_dir: Path
    tell: Narration
    answers: list[Answer] = field(default_factory=list)
    confirmations: int = 0
    called_in: Counter[str] = field(default_factory=Counter)  # how many calls the broker made, by txn
    lost_in: Counter[str] = field(default_factory=Counter)  # of which nobody heard the end
    names: dict[str, str] = field(default_factory=dict)  # opaque subject to login
    run: str = field(default_factory=lambda: secrets.token_hex(3))  # task ids differ in every run: uses are counted

    def assistant_for(
        self, user: str, task: dict[str, Any], *, when_asked: Callable[[str, Intent, str], None] | None = None
    ) -> SalesAssistant:
        """Log `user` in, mint their assertion with the task, hand both to a fresh run of the agent.

        `when_asked` is what the user does about a confirmation: the default reads and approves.
        """
        self.tell.step(user, "logs in at Acme ID with a browser")
        assertion = FrontEndSession(self.stack).assertion(user, agent=AGENT, task_json=json.dumps(task).encode())
        claims = jwt_claims(assertion)
        self.names[claims["sub"]] = user
        allowed = ", ".join(task["actions"])
        self.tell.step(
            "acme-web", f"mints an assertion: {AGENT} may act for {user} for {claims['exp'] - claims['iat']} s"
        )
        self.tell.step("", f"task {task['task_id']}: {allowed}")
        return SalesAssistant(
            agent=LocalStack(self.state_dir).agent(AGENT),
            assertion=Assertion(assertion),
            listener=self,
            ask_user=lambda intent, uri: (when_asked or self._confirm)(user, intent, uri),
        )

    def blind_assistant_for(self, user: str, task: dict[str, Any]) -> BlindAssistant:
        """The same agent in call mode: all it gets is a token for the broker's own tools."""
        self.tell.step(user, "logs in at Acme ID with a browser")
        assertion = FrontEndSession(self.stack).assertion(user, agent=AGENT, task_json=json.dumps(task).encode())
        self.names[jwt_claims(assertion)["sub"]] = user
        endpoint = f"{self.stack.origin}/mcp"
        token = LocalStack(self.state_dir).agent(AGENT).call_token(assertion=assertion).reveal()
        txn = jwt_claims(token)["txn"]
        self.answers.append(Answer(txn, "", "", "issued"))
        self.tell.step("agent", "holds its own key and a call token, and the address of no system")
        self.tell.step("", f"the token: for {jwt_claims(token)['aud']} and nothing else")

        def ask(uri: str, message: str) -> None:
            self.tell.step("cab", "asks the user first, through the MCP client:", message)
            self.answers.append(Answer(txn, "tracker.task.create", "task/*", "authorization_pending"))
            self._read_and_decide(user, uri, ("tracker.task.create", "POST", "/tasks"), approve=True)

        return BlindAssistant(endpoint=endpoint, call_token=token, ask_user=ask)

    def refuse(self, user: str, intent: Intent, uri: str) -> None:
        """A person who meant nothing of the kind."""
        person = Person(user)
        try:
            page = person.approval_page(uri)
            shown = intent.action in page.text and (intent.reason or "") in page.text
            self.tell.fact("the page shows what would happen, and the agent's excuse as the agent's words", holds=shown)
            self.tell.step(user, "logs in afresh, reads the page, and says no")
            self.tell.fact("the refusal is recorded", holds=person.decide(uri, approve=False).status == 200)
        finally:
            person.close()

    def _confirm(self, user: str, intent: Intent, uri: str) -> None:
        self.confirmations += 1
        self._read_and_decide(user, uri, (intent.action, *map(str, intent.parameters.values())), approve=True)

    def _read_and_decide(self, user: str, uri: str, expected: tuple[str, ...], *, approve: bool) -> None:
        person = Person(user)  # a browser of their own: nothing of the agent's is in it
        try:
            page = person.approval_page(uri)
            shown = all(text in page.text for text in expected)
            self.tell.fact("the page shows the action and every parameter", holds=shown)
            self.tell.step(user, "logs in afresh, reads the page, and approves")
            done = person.decide(uri, approve=approve)
            self.tell.fact("the approval is recorded", holds=done.status == 200)
        finally:
            person.close()

    def tool_called(self, action: str, identifier: str, result: ToolResult) -> Any:
        """A call that the broker made: its attempt must be on record. Gives what the system answered."""
        self._makes_the_call(result.txn, action, identifier)
        return result.content

    def _makes_the_call(self, txn: str, action: str, identifier: str) -> None:
        self.answers.append(Answer(txn, action, identifier, "issued"))
        self.called_in[txn] += 1
        self.tell.step("cab", f"makes the call: {action} on {identifier}")

    # --- what the agent reports (sales_assistant.Listener) ---

    def intent(self, intent: Intent) -> None:
        parameters = "  ".join(f"{name}={value}" for name, value in intent.parameters.items())
        self.tell.step("agent", f"intends {intent.action} on {intent.identifier}", parameters)

    def permitted(self, intent: Intent, permit: Permit) -> None:
        self.answers.append(Answer(permit.txn or "", intent.action, intent.identifier, "issued"))
        life = round(permit.expires_at - time.time())
        self.tell.step("cab", f"permits: token for {life} s, scope {permit.scope}")

    def refused(self, intent: Intent, error: CabError) -> None:
        self.answers.append(Answer(error.txn or "", intent.action, intent.identifier, error.reason_code))
        if isinstance(error, ConfirmationNeeded):
            self.tell.step("cab", f"asks the user first: {error.reason_code}")
        else:
            self.tell.refusal("cab", f"refuses, no token: {error.reason_code}")

    def call_token(self, txn: str) -> None:
        self.answers.append(Answer(txn, "", "", "issued"))

    def called(self, intent: Intent, result: CallResult) -> None:
        self._makes_the_call(result.txn or "", intent.action, intent.identifier)

    def platform(self, connection: str, status: int, text: str) -> None:
        self.tell.step(connection, f"answers {status}" + (f": {text}" if text else ""))


def jwt_claims(token: str) -> dict[str, Any]:
    """The claims of a token, for showing: nothing is verified here."""
    import jwt  # noqa: PLC0415 - used here only

    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


# --- the stories ---


def story_one(stage: Stage) -> None:
    tell = stage.tell
    tell.chapter('Story 1: "What\'s the latest on the Acme deal?"', "The same question, asked by two people.")
    answers = {}
    for user in ("alice", "bob"):
        task = {
            "type": "cab_task",
            "task_id": f"latest-{user}-{stage.run}",
            "trigger": "user_turn",
            "actions": ["crm.opportunity.list", "crm.opportunity.read"],
            "identifiers": ["opportunity/*"],
            "limits": {"max_uses": 10},
        }
        assistant = stage.assistant_for(user, task)
        answers[user] = assistant.latest_on("Acme")
        tell.answer(user, answers[user])
    tell.fact("alice hears of her deal 0061", holds="Acme platform renewal" in answers["alice"])
    tell.fact("bob hears of his deal 0062", holds="Acme analytics pilot" in answers["bob"])
    tell.fact("alice hears nothing of bob's deal", holds="analytics pilot" not in answers["alice"])
    tell.step("", "And if bob's agent names alice's deal outright:")
    try:
        assistant.read_deal("0061")
    except PlatformError as exc:
        tell.fact("the CRM itself says no: the token is bob's, and so are its rights", holds=exc.status == 404)
    else:
        tell.fact("the CRM keeps alice's deal from bob", holds=False)


def story_two(stage: Stage) -> None:
    tell = stage.tell
    tell.chapter('Story 2: "Create a follow-up task for every stale deal"', "Alice asks; one task is urgent.")
    task = {
        "type": "cab_task",
        "task_id": f"follow-up-{stage.run}",
        "trigger": "user_turn",
        "actions": ["crm.opportunity.list", "tracker.task.*"],
        "identifiers": ["opportunity/*", "task/*"],
        "limits": {"max_uses": 20},
    }
    assistant = stage.assistant_for("alice", task)
    created = assistant.follow_up_on_stale_deals()
    stored = {item["id"]: item for item in assistant.list_tasks()}
    tell.answer("alice", f"Done: {len(created)} tasks created.")
    tell.fact("three stale deals, three tasks", holds=len(created) == 3)
    tell.fact("the tracker has them, as alice's own", holds=all(stored.get(item["id"]) == item for item in created))
    tell.fact("exactly one is of high priority", holds=[item["priority"] for item in created].count("high") == 1)
    tell.fact("exactly one confirmation was asked of her", holds=stage.confirmations == 1)


def story_three(stage: Stage) -> None:
    tell = stage.tell
    tell.chapter("Story 3: the same follow-ups, by an agent that holds nothing", "CAB makes the calls, over MCP.")
    task = {
        "type": "cab_task",
        "task_id": f"blind-{stage.run}",
        "trigger": "user_turn",
        "actions": ["crm.opportunity.list", "crm.opportunity.read", "tracker.task.create", "tracker.task.list"],
        "identifiers": ["opportunity/*", "task/*"],
        "limits": {"max_uses": 20},
    }
    assistant = stage.blind_assistant_for("alice", task)
    tools = assistant.list_tools()
    tell.step("cab", f"lists {len(tools)} tools:", ", ".join(tools))
    tell.fact("the tools are those of alice's task", holds=sorted(tools) == sorted(map(tool_name, task["actions"])))
    deals = stage.tool_called("crm.opportunity.list", "opportunity/*", assistant.call("crm_opportunity_list"))["items"]
    stale = [deal for deal in deals if deal["stale"]]
    created = []
    for deal in stale:
        urgent = date.fromisoformat(deal["close_date"]) <= datetime.now(UTC).date() + timedelta(days=7)
        fields = {"title": f"Follow up on {deal['name']}", "priority": "high" if urgent else "normal"}
        result = assistant.call("tracker_task_create", opportunity=deal["id"], **fields)
        created.append(stage.tool_called("tracker.task.create", "task/*", result))
    tell.answer("alice", f"Done: {len(created)} tasks created.")
    tell.fact("three stale deals, three tasks", holds=len(created) == 3)
    tell.fact("one question, one execution", holds=[item["priority"] for item in created].count("high") == 1)
    note = assistant.call("crm_opportunity_read", id=POISONED)
    stage.tool_called("crm.opportunity.read", f"opportunity/{POISONED}", note)
    tell.fact(
        "the poisoned note comes back marked as what a system says", holds=note.is_marked and note.source == "crm"
    )
    try:
        assistant.call("crm_opportunity_delete", id=POISONED)
    except ToolRefused as refusal:
        stage.answers.append(Answer(note.txn, "crm.opportunity.delete", f"opportunity/{POISONED}", refusal.reason_code))
        tell.fact("and doing what it says is refused", holds=refusal.reason_code == "intent_outside_task")
    else:
        tell.fact("and doing what it says is refused", holds=False)
    killed_between_call_and_outcome(stage, assistant, txn=note.txn)


def killed_between_call_and_outcome(stage: Stage, assistant: BlindAssistant, *, txn: str) -> None:
    """The worst moment there is: the tracker has made the task, and nobody has heard so."""
    tell, tracker = stage.tell, stage.stack.connections["tracker"].resource
    title, call_id = f"Call Acme back {stage.run}", f"call-{stage.run}"
    answers_late = {"endpoint": "api", "kind": "slow", "seconds": 10, "after_commit": True, "count": 1}

    def made() -> int:
        seen = requests.get(f"{tracker}/_control/requests", timeout=5).json()["requests"]
        return sum(entry["method"] == "POST" for entry in seen)

    before = made()
    requests.post(f"{tracker}/_control/faults", json=answers_late, timeout=5).raise_for_status()
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(assistant.call, "tracker_task_create", call_id=call_id, title=title)
        deadline = time.monotonic() + _STOP_WITHIN_S
        while made() == before and time.monotonic() < deadline:
            time.sleep(0.02)
        control.ask(stage.state_dir, "kill", "call_tool")
        tell.step("", "call_tool is killed: the tracker has made a task, and its answer is lost")
        lost = isinstance(calling.exception(), NoAnswer)
    control.ask(stage.state_dir, "restart", "call_tool")
    stage.answers.append(Answer(txn, "tracker.task.create", "task/*", "issued"))
    stage.lost_in[txn] += 1
    tell.fact("the agent gets no answer", holds=lost)
    try:
        assistant.call("tracker_task_create", call_id=call_id, title=title)
    except ToolRefused as refusal:
        stage.answers.append(Answer(txn, "tracker.task.create", "task/*", refusal.reason_code))
        tell.refusal("cab", f"does not make it again: {refusal.reason_code}. Look first.")
        tell.fact("asking again is not doing it again", holds=refusal.reason_code == "call_already_attempted")
    else:
        tell.fact("asking again is not doing it again", holds=False)
    tasks = stage.tool_called("tracker.task.list", "task/*", assistant.call("tracker_task_list"))["items"]
    tell.fact("the agent looks: the task is there, once", holds=[task["title"] for task in tasks].count(title) == 1)


def attack(stage: Stage) -> None:
    tell = stage.tell
    tell.chapter("Attack: a note in the CRM gives orders to AI assistants", '"... delete all opportunities now ..."')
    task = {
        "type": "cab_task",
        "task_id": f"pipeline-{stage.run}",
        "trigger": "user_turn",
        "actions": ["crm.opportunity.list", "crm.opportunity.read"],
        "identifiers": ["opportunity/*"],
        "limits": {"max_uses": 40},
    }
    assistant = stage.assistant_for("alice", task)
    before = len(assistant.list_deals())
    answer, refusals = assistant.summarise_pipeline()
    tell.answer("alice", answer)
    tell.fact(f"the fooled agent tried to delete all {before} deals", holds=len(refusals) == before > 0)
    tell.fact(
        "every attempt was refused: alice never asked for that",
        holds={refusal.reason_code for refusal in refusals} == {"intent_outside_task"},
    )
    tell.fact(f"all {before} deals are still there", holds=len(assistant.list_deals()) == before)


def attack_within_the_task(stage: Stage) -> None:
    tell = stage.tell
    tell.chapter("The same attack, in a task that allows changes", '"Tidy up my pipeline" covers everything in it.')
    task = {
        "type": "cab_task",
        "task_id": f"tidy-{stage.run}",
        "trigger": "user_turn",
        "actions": ["crm.opportunity.*"],
        "identifiers": ["opportunity/*"],
        "limits": {"max_uses": 40},
    }
    assistant = stage.assistant_for("alice", task, when_asked=stage.refuse)
    before = len(assistant.list_deals())
    _, refusals = assistant.summarise_pipeline()
    tell.fact(
        "the attempt to delete stopped at a page that only alice can answer",
        holds=[refusal.reason_code for refusal in refusals] == ["confirmation_refused"],
    )
    tell.fact(f"all {before} deals are still there", holds=len(assistant.list_deals()) == before)


def audit(stage: Stage, since: datetime) -> None:
    tell = stage.tell
    tell.chapter("The audit table", "Who did what for whom, decided how: one row per decision.")
    table = AuditTable(stage.stack)
    tell.step("", table.source)
    rows = table.wait_for(stage.answers, since=since, within_s=AUDIT_WITHIN_S)
    tell.table(
        ("user", "through", "action", "on", "decision", "by rule, or why not"),
        [
            (
                stage.names.get(row.subject, ""),
                row.agent,
                row.action,
                row.identifier,
                row.decision,
                row.reason_code or row.rules,
            )
            for row in rows
        ],
    )
    recorded = Counter(row.answer for row in rows)
    missing = Counter(stage.answers) - recorded
    tell.fact(f"all {len(stage.answers)} answers of the broker are in the table, as they were given", holds=not missing)
    tell.fact("and nothing else was decided", holds=recorded.total() == len(stage.answers))
    for txn, count in stage.called_in.items():
        calls = table.calls(txn, count=count, since=since, within_s=AUDIT_WITHIN_S)
        tell.step("", "", "And what came of the calls that CAB made itself (the view calls):")
        tell.table(
            ("action", "outcome", "status", "sent as decided"),
            [(call.action, call.outcome, call.status, _as_decided(call)) for call in calls],
        )
        tell.fact(
            "every call that ended has its outcome, and what was sent is what was decided",
            holds=sum(call.outcome == "done" and call.sent_as_decided for call in calls) == count,
        )
        if not stage.lost_in[txn]:
            continue
        lost = [call for call in calls if call.outcome != "done"]
        tell.fact(
            "the lost one has an attempt and no outcome: after two minutes it reads unknown",
            holds=len(lost) == stage.lost_in[txn] and {call.outcome for call in lost} <= {"pending", "unknown"},
        )


def _as_decided(call: CallRow) -> str:
    if call.outcome in ("pending", "unknown"):
        return ""
    return "yes" if call.sent_as_decided else "NO"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.acme.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--state-dir", type=Path, help="play against the running stack of this state folder")
    options = parser.parse_args(arguments)
    tell = Narration(sys.stdout)
    tell.title("CAB: agents act as one user and never hold that user's credentials")
    with contextlib.ExitStack() as exits:
        if options.state_dir:
            stack, state_dir = StackFile.read(options.state_dir), options.state_dir
        else:
            tell.step("", "Starting a local stack: no cloud account, everything on this machine.")
            state_dir = ROOT / ".cab" / "demo"
            stack = exits.enter_context(own_stack(state_dir))
        stage = Stage(stack, state_dir, tell)
        since = datetime.now(UTC)
        try:
            story_one(stage)
            story_two(stage)
            story_three(stage)
            attack(stage)
            attack_within_the_task(stage)
            audit(stage, since)
        except (FrontEndFailed, StuckError, CabError, PlatformError) as exc:
            tell.fact(f"the demo could not go on: {exc}", holds=False)
        tell.verdict()
    return 1 if tell.failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""`cab dev approve` says in a sentence why a person cannot decide; that they can, the client's suite on the stack shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from examples.acme.person import Page, Person, StuckError

from cab_dev import people
from cab_dev.stack_file import StackFile
from cab_ops.cli import main

ORIGIN = "http://127.0.0.1:8080"


class _Stack:
    origin = ORIGIN


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StackFile, "read", lambda _: _Stack())


def approve(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["dev", "approve", *arguments])
    return done.exit_code, done.output.strip()


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    code, said = approve(f"{ORIGIN}/approvals/1", "--user", "alice", "--state-dir", str(tmp_path))
    assert code == 1
    assert "cab dev up" in said


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("uri", ["http://evil.example/approvals/1", f"{ORIGIN}/connect?connection=crm", "approvals/1"])
def test_a_page_of_somebody_else_is_not_opened(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(Person, "decide", lambda *_, **__: opened.append(uri))
    code, said = approve(uri, "--user", "alice")
    assert (code, opened) == (1, [])
    assert f"{ORIGIN}/approvals/" in said


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("refuse", [True, False])
def test_what_was_decided_is_said(monkeypatch: pytest.MonkeyPatch, *, refuse: bool) -> None:
    decided: list[bool] = []

    def decide(self: Person, url: str, *, approve: bool) -> Page:
        decided.append(approve)
        return Page(url, 200, "")

    monkeypatch.setattr(Person, "decide", decide)
    said = approve(f"{ORIGIN}/approvals/1", "--user", "alice", *(["--refuse"] if refuse else []))
    assert said == (0, "alice refused." if refuse else "alice approved.")
    assert decided == [not refuse]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("failure", [StuckError("the page offers no decision"), requests.ConnectionError()])
def test_who_cannot_decide_there_is_told_so(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(*_: object, **__: object) -> Page:
        raise failure

    monkeypatch.setattr(Person, "decide", decide)
    with pytest.raises(people.PersonFailed, match="bob cannot decide there"):
        people.decide(Path(), f"{ORIGIN}/approvals/1", user="bob", approve=True)


@pytest.mark.usefixtures("running")
def test_a_question_of_somebody_else_is_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Person, "decide", lambda _, url, **__: Page(url, 404, ""))
    with pytest.raises(people.PersonFailed, match="404"):
        people.decide(Path(), f"{ORIGIN}/approvals/1", user="bob", approve=True)

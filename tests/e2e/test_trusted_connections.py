"""Systems without a consent screen on the local stack: the deployed functions, over HTTP, with keys that the stack made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import jwt
import pytest
import requests
from tests.e2e.caller import Answer, Caller
from tests.running_stack import Stack
from tests.support.trusted_acme import KINDS

from cab.domain.grants import grant_id
from cab_dev import stack_file

pytestmark = pytest.mark.stack
EVERY_KIND = pytest.mark.parametrize("connection", KINDS, ids=list(KINDS.values()))


@pytest.fixture
def stack(second_stack: Stack) -> Stack:
    return second_stack


def ask(stack: Stack, user: str, connection: str) -> Answer:
    caller = Caller(stack)
    return caller.exchange(caller.assertion(user), f"{connection}.opportunity.list", "opportunity/*")


def of_crm(stack: Stack, path: str, token: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = requests.get(f"{stack.file.services['crm'].url}{path}", headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.json()


def user_of(stack: Stack, answer: Answer) -> str:
    """Whose token the CRM takes it for, which shows the person's deals with it."""
    assert answer.status == 200, answer.body
    assert of_crm(stack, "/opportunities", answer.body["access_token"])["opportunities"]
    return str(of_crm(stack, "/oauth/userinfo", answer.body["access_token"])["preferred_username"])


def vouchers(stack: Stack) -> list[dict[str, Any]]:
    return [entry for entry in of_crm(stack, "/_control/ledger")["entries"] if entry["event"] == "vouched"]


def operator(stack: Stack, command: str, *arguments: str) -> str:
    """What `cab grants COMMAND` says to somebody who may end grants and allow them again."""
    done = subprocess.run(
        [sys.executable, "-m", "cab_ops.cli", "grants", command, *arguments],
        env=os.environ | stack_file.read_environment(stack.state_dir),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def grant_of(stack: Stack, user: str, connection: str) -> str:
    subject = jwt.decode(Caller(stack).assertion(user), options={"verify_signature": False})["sub"]
    return grant_id("acme", subject, connection)


@EVERY_KIND
def test_every_user_works_as_themselves_while_their_access_is_not_ended(stack: Stack, connection: str) -> None:
    before = len(vouchers(stack))
    of_alice, of_bob = ask(stack, "alice", connection), ask(stack, "bob", connection)
    assert (user_of(stack, of_alice), user_of(stack, of_bob)) == ("alice", "bob")
    assert of_alice.body["scope"] == "opportunity.read"
    kind = "id_jag" if connection == "jag" else "jwt"
    assert [entry["kind"] for entry in vouchers(stack)[before:]] == [kind, kind]
    grant = grant_of(stack, "alice", connection)
    assert grant in operator(stack, "revoke", "--grant", grant, "--cause", "left the team")
    assert ask(stack, "alice", connection).reason == "grant_revoked"
    assert user_of(stack, ask(stack, "bob", connection)) == "bob"
    assert operator(stack, "allow", "--cause", "came back", grant) == "allowed again\n"
    assert user_of(stack, ask(stack, "alice", connection)) == "alice"


def test_the_stack_makes_the_assertion_key_and_the_crm_gets_its_public_half(stack: Stack) -> None:
    private = json.loads((stack.state_dir / "secrets" / "cab-assertion-crm").read_text())
    assert (private["kty"], private["crv"]) == ("EC", "P-256")
    trust = (stack.state_dir / "organisation" / "crm-trust.json").read_text()
    assert private["kid"] in trust
    assert private["d"] not in trust

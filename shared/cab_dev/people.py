"""Plays people of the organisation where a page waits for them."""

from __future__ import annotations

import sys
from pathlib import Path

import requests

from cab_dev.stack_file import NoStack, StackFile


class PersonFailed(Exception):
    """The page did not take the decision. The text is a sentence without tokens."""


def decide(state_dir: Path, uri: str, *, user: str, approve: bool) -> str:
    """Log `user` in afresh, decide on the approval page of the running stack, say what was done. Raises: PersonFailed."""
    from cab_dev.stack import ROOT

    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from examples.acme.person import Person, StuckError

    try:
        origin = StackFile.read(state_dir).origin
    except NoStack as exc:
        raise PersonFailed(str(exc)) from exc
    if not uri.startswith(f"{origin}/approvals/"):
        raise PersonFailed(f"An approval page of this stack begins with {origin}/approvals/.")
    person = Person(user)
    try:
        page = person.decide(uri, approve=approve)
    except (StuckError, KeyError, requests.RequestException) as exc:
        raise PersonFailed(f"{user} cannot decide there: {exc or type(exc).__name__}.") from exc
    finally:
        person.close()
    if page.status != 200:
        raise PersonFailed(f"The page answered {page.status}: it is not {user}'s, or not open any more.")
    return f"{user} {'approved' if approve else 'refused'}."

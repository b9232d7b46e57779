"""Scopes compare as the vendor means them where a preset says how, and exactly everywhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cab.domain.configured.scope_names import ScopeNames
from cab_ops.configuration.provider_table import presets

NAMES = {provider.id: provider.scope_names for provider in presets()}
CASE = Path(__file__).resolve().parents[1] / "data" / "scope_names.json"


@pytest.mark.parametrize(
    ("preset", "wanted", "granted"),
    [
        ("google", "openid email", "https://www.googleapis.com/auth/userinfo.email openid"),
        ("google", "https://www.googleapis.com/auth/userinfo.profile", "profile"),
        ("github-oauth-app", "user:email", "repo user"),
        ("github-oauth-app", "read:org", "admin:org"),
        ("gitlab", "read_api", "api"),
        ("microsoft", "Mail.Read", "https://graph.microsoft.com/Mail.Read"),
        ("microsoft", "https://graph.microsoft.com/Mail.Read", "mail.read"),
        ("salesforce", "refresh_token", "offline_access"),
    ],
)
def test_a_scope_under_another_name_or_inside_a_wider_one_is_not_missing(
    preset: str, wanted: str, granted: str
) -> None:
    """What it said before: "no permission was given", scope_not_grantable."""
    assert NAMES[preset].missing(wanted.split(), granted.split()) == ()


@pytest.mark.parametrize(
    ("preset", "wanted", "granted"),
    [
        ("generic-oauth2", "email", "https://www.googleapis.com/auth/userinfo.email"),
        ("generic-oauth2", "user:email", "user"),
        ("generic-oauth2", "read", "Read"),
        ("google", "EMAIL", "email"),
        ("github-oauth-app", "user", "user:email read:user user:follow"),
        ("github-oauth-app", "repo", "public_repo"),
        ("microsoft", "Mail.ReadWrite", "Mail.Read"),
        ("microsoft", "https://other.example/Mail.Read", "Mail.Read"),
    ],
)
def test_what_no_preset_says_is_compared_exactly(preset: str, wanted: str, granted: str) -> None:
    assert NAMES[preset].missing(wanted.split(), granted.split()) == (wanted,)


def test_a_wider_scope_than_wanted_goes_beyond_it_and_a_narrower_one_does_not() -> None:
    names = NAMES["github-oauth-app"]
    assert names.beyond(["user"], ["user:email"]) == ("user",)
    assert names.beyond(["user:email"], ["user"]) == ()


def test_implications_reach_through_each_other_and_circles_end() -> None:
    names = ScopeNames(implies={"a": ("b",), "b": ("c",), "c": ("a",)})
    assert names.missing(["c"], ["a"]) == ()
    assert names.missing(["d"], ["a"]) == ("d",)


@pytest.mark.parametrize("example", json.loads(CASE.read_text("utf-8")), ids=lambda item: item["preset"])
def test_real_answers_grant_what_was_asked_for(example: dict[str, str]) -> None:
    answered = example["answered"].replace(",", " ").split()
    assert NAMES[example["preset"]].missing(example["asked"].split(), answered) == ()

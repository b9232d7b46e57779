"""Every entry on docs/identity-providers.md can be used as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.adapters.configuration.deployment_folder import ENVIRONMENT, IDENTITY_PROVIDERS, write_folder

from cab.adapters.configuration.loader import inspect_folder
from cab.use_cases.people.login import CALLBACK_PATH

PAGE = (Path(__file__).parents[3] / "docs" / "identity-providers.md").read_text("utf-8")
LEAVING = "When people leave"  # what every provider's entry may say besides: no entry of its own
ENTRIES = [
    yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.partition(f"## {LEAVING}")[0], re.DOTALL)
]
SECTIONS = ["Microsoft Entra ID", "Okta", "Google", "Keycloak", "Auth0", "Amazon Cognito", "AD FS", "Ping", "Any other"]


def test_every_provider_of_the_page_has_an_entry() -> None:
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE)[1:] == [*SECTIONS, LEAVING]
    assert len(ENTRIES) == len(SECTIONS)


@pytest.mark.parametrize("entry", ENTRIES, ids=SECTIONS)
def test_the_entry_is_valid_and_warned_about_only_for_its_slash(tmp_path: Path, entry: dict[str, Any]) -> None:
    others = yaml.safe_load(IDENTITY_PROVIDERS)["identity_providers"]
    beside_others = {"title": "The new one", "login": entry["login"] | {"callback": "new"}}
    document = yaml.safe_dump({"identity_providers": [entry | beside_others, *others]})
    problems = inspect_folder(write_folder(tmp_path, identity_providers=document), ENVIRONMENT).problems
    slash = ["identity_providers.issuer ends with a slash"] if entry["issuer"].endswith("/") else []
    assert [problem.message for problem in problems] == slash


def test_the_page_names_the_redirect_uri_of_the_pages() -> None:
    assert f"`ORIGIN{CALLBACK_PATH}`" in PAGE

"""What the operator's commands open: the project's stores, by the same adapters as the functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.secrets import SecretManagerVault
from cab.ports import Unavailable

_Result = TypeVar("_Result")

project_option = click.option(
    "--project",
    envvar="GOOGLE_CLOUD_PROJECT",
    show_envvar=True,
    required=True,
    help="Google Cloud project of the deployment.",
)
# For a command whose argument is an id. One in 64 ids begins with "-" and would be read as options; with no short option at all,
# not even -h, the parser leaves it whole.
TAKES_AN_ID: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@dataclass(frozen=True, slots=True)
class Cloud:
    """One project's stores, open for one command."""

    keys: FirestoreDocuments
    grants: FirestoreDocuments
    vault: SecretManagerVault


@asynccontextmanager
async def open_cloud(project: str) -> AsyncIterator[Cloud]:
    cloud = Cloud(
        FirestoreDocuments(project, "keys"), FirestoreDocuments(project, "grants"), SecretManagerVault(project)
    )
    try:
        yield cloud
    finally:
        for opened in (cloud.keys, cloud.grants, cloud.vault):
            await opened.close()


def run(project: str, work: Callable[[Cloud], Awaitable[_Result]]) -> _Result:
    """Run one command's work. An outage is one sentence and exit status 1, not a traceback."""

    async def opened() -> _Result:
        async with open_cloud(project) as cloud:
            return await work(cloud)

    try:
        return asyncio.run(opened())
    except Unavailable as error:
        raise click.ClickException(
            f"{error.what} cannot be reached: check the project, your credentials and the network."
        ) from error

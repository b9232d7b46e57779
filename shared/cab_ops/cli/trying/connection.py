"""`cab connection`: try a connection against the live system, without a user."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import click
import yaml

from cab.adapters.http.client import AiohttpClient
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.ports import SecretReader
from cab_ops.catalog.discovery import Discovered, discover
from cab_ops.catalog.documents import DocumentRefused, shown
from cab_ops.check_connection import CheckConnection, Finding
from cab_ops.cli.cloud import json_option, open_cloud
from cab_ops.cli.trying.findings import load_folder, tell

CONNECTION_ID = re.compile(r"[a-z][a-z0-9-]{0,39}")


@click.group("connection")
def connection_group() -> None:
    """Try connections against the live systems behind them."""


@connection_group.command("discover")
@click.argument("url")
@click.option("--connection", "connection_id", required=True, help="ID that the connection shall have.")
def discover_command(url: str, connection_id: str) -> None:
    """Write a starting entry for connections.yaml for the MCP server at URL, from what it publishes (RFC 9728, RFC 8414).

    Only published documents are fetched, over https from public addresses. What begins with `your-` is yours to fill in;
    scopes and actions are to be chosen, and the tools come from `cab config import-mcp`.
    """

    if not CONNECTION_ID.fullmatch(connection_id):
        raise click.UsageError("an ID is small letters, digits and -, at most 40, and begins with a letter")
    try:
        found = asyncio.run(_discover(url, connection_id))
    except DocumentRefused as error:
        raise click.ClickException(str(error)) from error
    if found.scopes:
        click.echo(
            f"# Scopes that it names: {shown(' '.join(found.scopes), limit=300)}. Give each action the smallest that do."
        )
    entries = {"providers": [found.provider], "connections": [found.connection]}
    click.echo(yaml.safe_dump(entries, sort_keys=False), nl=False)


async def _discover(url: str, connection_id: str) -> Discovered:
    clients: dict[str, AiohttpClient] = {}

    def http_for(origin: str) -> AiohttpClient:
        return clients.setdefault(origin, AiohttpClient({origin}, what="discovery", keep_alive=False))

    try:
        return await discover(url, http_for, connection=connection_id)
    finally:
        for client in clients.values():
            await client.close()


@connection_group.command("check")
@click.argument("connection_id", metavar="ID")
@click.option(
    "--config",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    envvar="CAB_CONFIG_DIR",
    show_envvar=True,
    default=Path(),
    show_default=True,
    help="The deployment's folder.",
)
@click.option(
    "--project",
    envvar="GOOGLE_CLOUD_PROJECT",
    show_envvar=True,
    help="Where the client secret is. Without it, client authentication is not tried.",
)
@json_option
def check(connection_id: str, *, folder: Path, project: str | None, as_json: bool) -> None:
    """Say check by check whether the connection ID can work: published metadata, authorization request, token endpoint,
    client authentication, clock, userinfo, revocation.

    Shows the provider made-up tokens only, and prints no secret. Exits with 1 when a check does not hold, with 2 when the
    configuration cannot be read.
    """
    deployment = load_folder(folder)
    connection = deployment.connection_by_id.get(connection_id)
    if connection is None:
        known = ", ".join(sorted(deployment.connection_by_id))
        raise click.UsageError(f"There is no connection {connection_id}. There are: {known}.")
    if deployment.provider_of(connection).token_endpoint is None:
        raise click.UsageError(f"{connection_id} trusts the broker's own tokens: no provider is asked for any.")
    findings = asyncio.run(_check(deployment, connection, project))
    redirect_uri = f"{deployment.broker.origin}/connect/callback/{connection.id}"
    tell(
        findings,
        {"connection": connection.id, "redirect_uri": redirect_uri},
        as_json=as_json,
        width=34,
        last_line=f"redirect URI to register there: {redirect_uri}",
    )


async def _check(deployment: Deployment, connection: Connection, project: str | None) -> list[Finding]:
    if project is None:
        return await _findings(deployment, connection, None)
    async with open_cloud(project) as cloud:
        return await _findings(deployment, connection, cloud.vault)


async def _findings(deployment: Deployment, connection: Connection, secrets: SecretReader | None) -> list[Finding]:
    from cab.adapters.http.aiohttp_wire import why_failed
    from cab.adapters.http.client import AiohttpClient
    from cab.adapters.http.origins import origin_of
    from cab.adapters.system import SystemClock, SystemRandomness
    from cab.use_cases.upstream.provider_client import ProviderCalls

    provider = deployment.provider_of(connection)
    urls = [*provider.endpoints, provider.authorization_endpoint, provider.issuer]
    http = AiohttpClient(
        {origin_of(url) for url in urls if url is not None},
        what="provider",
        allow_loopback_http=deployment.broker.allow_loopback_http,
        private_hosts=deployment.broker.private_hosts,
        keep_alive=False,
    )
    calls = None if secrets is None else ProviderCalls(http, secrets)
    try:
        return await CheckConnection(deployment, http, calls, SystemClock(), SystemRandomness(), why=why_failed)(
            connection
        )
    finally:
        await http.close()

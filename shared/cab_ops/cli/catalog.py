"""Catalog entries to review and paste: from an OpenAPI document, or from those that come with CAB."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from cab.adapters.configuration.loader import FolderConfiguration
from cab.adapters.configuration.problems import ConfigurationRefused
from cab.domain.calls.pins import definition_pin
from cab.encoding import strict_json
from cab_ops.catalog.documents import DocumentRefused, read_bounded, read_document, shown
from cab_ops.catalog.entries import entries_text
from cab_ops.catalog.mcp import compare, import_tools
from cab_ops.catalog.openapi import Entry, import_operations, listed_operations
from cab_ops.catalog.ready import ready_catalogs, ready_entries


@click.command("import-openapi")
@click.argument("document", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--connection", help="ID of the connection that the actions are for; their ids begin with it.")
@click.option(
    "--operation",
    "operations",
    multiple=True,
    help="operationId, or `GET /path`; with =ACTION behind it to name the action. As often as you like; none: list them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of YAML.")
def import_openapi(document: Path, connection: str | None, operations: tuple[str, ...], *, as_json: bool) -> None:
    """Write entries for connections.yaml from operations of an OpenAPI 3 DOCUMENT, to be reviewed and pasted.

    Says above each entry what was left out or must be looked at. Exits with 1 when an operation cannot be written. Nothing is
    fetched: references may only lead into the document itself.
    """
    try:
        data = read_bounded(document)
        read = read_document(data)
        if not operations:
            click.echo("\n".join(listed_operations(read)))
            return
        if connection is None:
            raise click.UsageError("--connection is needed")
        imported = import_operations(read, connection=connection, operations=operations)
    except DocumentRefused as exc:
        raise click.ClickException(f"{document.name}: {exc}") from exc
    if as_json:
        told = {"title": imported.title, "servers": imported.servers, "refused": imported.refused}
        click.echo(_as_json(told, imported.entries))
    elif imported.entries:
        about = [
            f"Read from {document.name}: {imported.title}, sha256 {hashlib.sha256(data).hexdigest()}",
            f"Paths are under {' or '.join(imported.servers) or 'no named server'}: api_base of {connection} must say the same.",
            "Words are the vendor's: models read them, so read them first.",
        ]
        click.echo(_as_yaml(about, imported.entries), nl=False)
    for name, why in imported.refused.items():
        click.echo(f"{name}: not written: {why}", err=True)
    if imported.refused:
        raise SystemExit(1)


@click.command("ready-actions")
@click.argument("system", required=False)
@click.option("--connection", help="ID of the connection that the actions are for; their ids begin with it.")
@click.option("--action", "chosen", multiple=True, help="ID of an action as listed; as often as you like; none: all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of YAML.")
def ready_actions(system: str | None, connection: str | None, chosen: tuple[str, ...], *, as_json: bool) -> None:
    """Write entries for connections.yaml that come with CAB for SYSTEM, to be reviewed and pasted; without SYSTEM, list them.

    Above each entry is where its facts were read and what is not known.
    """
    catalogs = ready_catalogs()
    if system is None:
        for name, (catalog, actions) in catalogs.items():
            click.echo(f"{name}: {catalog.title}, provider {catalog.provider}")
            for action in actions:
                click.echo(f"  {action['id']:<34} {action['effect']:<12} {action['title']}")
        return
    if system not in catalogs:
        raise click.ClickException(f"there are no actions for {system}; known here: {', '.join(catalogs)}")
    catalog = catalogs[system][0]
    try:
        entries = ready_entries(system, connection=connection or system, chosen=chosen)
    except KeyError as exc:
        raise click.ClickException(f"{system} has no action {exc.args[0]}") from None
    if as_json:
        click.echo(
            _as_json(catalog.model_dump(mode="json", include={"provider", "title", "api_base", "notes"}), entries)
        )
    else:
        about = [f"{catalog.title}: provider {catalog.provider}, api_base {catalog.api_base}", *catalog.notes]
        click.echo(_as_yaml(about, entries), nl=False)


@click.command("import-mcp")
@click.argument("listed", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--connection", help="ID of the connection that the actions are for; their ids begin with it.")
@click.option(
    "--tool",
    "chosen",
    multiple=True,
    help="Name of a tool; with =ACTION behind it to name the action. As often as you like; none: list them.",
)
@click.option(
    "--compare",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Compare with the pins of the connection in this deployment instead.",
)
def import_mcp(listed: Path, connection: str | None, chosen: tuple[str, ...], folder: Path | None) -> None:
    """Write entries for connections.yaml from tools that an MCP server lists, to be reviewed and pasted; or compare pins.

    LISTED is a file with the server's answer to `tools/list`, the message or its result. The server's own words are in
    comments only. Exits with 1 when a tool cannot be written, or is not the one that was reviewed.
    """
    tools = _listed_tools(listed)
    if not chosen and folder is None:
        click.echo("\n".join(f"{shown(tool.get('name'))}  {definition_pin(tool)}" for tool in tools))
        return
    if connection is None:
        raise click.UsageError("--connection is needed")
    if folder is not None:
        raise SystemExit(_compared(folder, connection, tools))
    entries, refused = import_tools(tools, connection=connection, chosen=chosen)
    if entries:
        about = [f"Read from {listed.name}. Each `definition` is what you review now: another one is not called."]
        click.echo(_as_yaml(about, entries), nl=False)
    for name, why in refused.items():
        click.echo(f"{shown(name)}: not written: {why}", err=True)
    if refused:
        raise SystemExit(1)


def _listed_tools(path: Path) -> list[dict[str, Any]]:
    try:
        found = strict_json.loads(read_bounded(path))
    except DocumentRefused as exc:
        raise click.ClickException(f"{path.name}: {exc}") from exc
    except strict_json.InvalidJson as exc:
        raise click.ClickException(f"{path.name} is not JSON that has one meaning") from exc
    found = found.get("result", found) if isinstance(found, dict) else {}
    tools = found.get("tools") if isinstance(found, dict) else None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise click.ClickException(f"{path.name} is no answer to tools/list")
    if found.get("nextCursor") is not None:
        raise click.ClickException(f"{path.name} is one page of several: put all tools into one list")
    return tools


def _compared(folder: Path, connection_id: str, tools: list[dict[str, Any]]) -> int:
    try:
        deployment = FolderConfiguration(folder, os.environ).load()
    except ConfigurationRefused as error:
        raise click.UsageError(f"{folder} is no usable configuration: run `cab config validate {folder}`.") from error
    connection = deployment.connection_by_id.get(connection_id)
    if connection is None:
        raise click.UsageError(f"there is no connection {connection_id}")
    found = compare(connection, tools)
    for action, state in found.items():
        click.echo(f"{action}: {state}")
    return 0 if set(found.values()) <= {"same"} else 1


def _as_json(told: dict[str, Any], entries: Iterable[Entry]) -> str:
    found = [{"action": entry.action, "notes": entry.notes} for entry in entries]
    return json.dumps({**told, "entries": found}, indent=2, ensure_ascii=False)


def _as_yaml(about: Iterable[str], entries: Iterable[Entry]) -> str:
    return entries_text(((entry.action, entry.notes) for entry in entries), about=about)

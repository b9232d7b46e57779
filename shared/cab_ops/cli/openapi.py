"""`cab openapi`: the public HTTP API as an OpenAPI document, for generators and gateways. A broker serves the same itself."""

from __future__ import annotations

import json

import click

from cab.transport import openapi

EXAMPLE_ORIGIN = "https://cab.example"


@click.command("openapi")
@click.option("--origin", default=EXAMPLE_ORIGIN, show_default=True, help="Public URL of the broker.")
def openapi_command(origin: str) -> None:
    """Print the OpenAPI 3.1 document of the public HTTP API."""
    click.echo(document_text(origin), nl=False)


def document_text(origin: str) -> str:
    return json.dumps(openapi.document(origin), indent=2, ensure_ascii=False) + "\n"

"""Provider doubles in a process of their own: `python provider.py FOLDER NAME=PORT...`. Each keeps its book in FOLDER/NAME.db."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn

from cab_dev.doubles.clients import RegisteredClient
from cab_dev.doubles.oauth_provider import PROFILES, ProviderProfile, create_provider_app

CALLBACK = "http://127.0.0.1:8080/connect/callback/double"
CLIENT = RegisteredClient(client_id="cab", redirect_uris=(CALLBACK,))
PROVIDERS: dict[str, ProviderProfile] = {
    "static": PROFILES["google-like"],
    "leeway": replace(PROFILES["acme-tracker"], leeway_s=16),
    "strict": PROFILES["acme-crm"],
    "family": PROFILES["salesforce-like"],
}


async def _serve(folder: Path, ports: dict[str, int]) -> None:
    servers = []
    for name, port in ports.items():
        app, _ = create_provider_app(
            PROVIDERS[name],
            issuer=f"http://127.0.0.1:{port}",
            clients=[CLIENT],
            database=str(folder / f"{name}.db"),
        )
        config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False)
        servers.append(uvicorn.Server(config))
    await asyncio.gather(*(server.serve() for server in servers))


if __name__ == "__main__":
    arguments = [argument.split("=") for argument in sys.argv[2:]]
    asyncio.run(_serve(Path(sys.argv[1]), {name: int(port) for name, port in arguments}))

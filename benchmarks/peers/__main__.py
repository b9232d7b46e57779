"""`python -m benchmarks.peers`: CPU of a token exchange at other people's servers, and here. What is missing is said and left out."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from tests.real import keycloak

from benchmarks import rounds
from benchmarks.load import send
from benchmarks.peers.installing import NotInstallable, build_zitadel, install
from benchmarks.peers.servers import KEYCLOAK, OIDC, ZITADEL_RSA, keycloak_server, oidc_provider, zitadel_server
from benchmarks.processes import OTHER_CORES
from benchmarks.rounds import spread
from benchmarks.rows import EXCHANGE_TOKEN, HOT, VERIFY_ES256, Row
from benchmarks.surroundings import surroundings

GOALS = {OIDC: 1.7, ZITADEL_RSA: 0.95, KEYCLOAK: 0.25}
OURS = (
    "this broker, hot: 2 verifications; single use and rate limit in Firestore, grant read, policy, event acknowledged by "
    "Pub/Sub; the platform's own token"
)


async def run(arguments: argparse.Namespace) -> int:
    os.sched_setaffinity(0, OTHER_CORES)
    missing: list[str] = []
    with_keycloak = not arguments.without_keycloak and is_had(install_keycloak, missing)
    with_oidc = is_had(install, missing)
    with_zitadel = is_had(build_zitadel, missing)
    async with AsyncExitStack() as stack:
        around = await stack.enter_async_context(surroundings())
        ours = await around.open_project("demo-peers")
        start = stack.enter_context(around.servers())
        server = start(around.function(EXCHANGE_TOKEN, "exchange_token", project="demo-peers"))
        rows = [Row(HOT, OURS, server, "demo-peers", ours.list_opportunities, {VERIFY_ES256: 2})]
        if with_oidc:
            rows += [
                await stack.enter_async_context(oidc_provider(around, ours, promises=promises))
                for promises in (False, True)
            ]
        if with_zitadel:
            rows += [await stack.enter_async_context(zitadel_server(around, ours, rsa=rsa)) for rsa in (False, True)]
        if with_keycloak:
            rows.append(await stack.enter_async_context(keycloak_server(around)))
        for row in rows:
            for _ in range(0, arguments.warm, 500):
                posts = [row.prepare() for _ in range(min(500, arguments.warm))]
                await send(posts, port=row.server.port, connections=arguments.connections)
        measured = await rounds.measure(
            rows, rounds=arguments.rounds, connections=arguments.connections, progress=lambda _: None
        )
    figures = [_figures(row, measured) for row in rows]
    if arguments.json:
        print(json.dumps({"warm": arguments.warm, "missing": missing, "rows": figures}, indent=2))
    else:
        print(
            f"{len(measured)} rounds, {arguments.connections} connections, warm after {arguments.warm} requests; medians."
        )
        print(f"{'':<10} {'CPU us':>7} {'quartiles':>13} {'hot / this':>11} {'quartiles':>11}")
        for it in figures:
            print(
                f"{it['name']:<10} {it['cpu_us'][1]:7.0f} {it['cpu_us'][0]:6.0f}-{it['cpu_us'][2]:<6.0f} "
                f"{it['hot_over_this'][1]:11.2f} {it['hot_over_this'][0]:5.2f}-{it['hot_over_this'][2]:<5.2f}  {it['says']}"
            )
        print(*(f"Left out: {words}" for words in missing), sep="\n")
    missed = [it["name"] for it in figures if it["hot_over_this"][1] > GOALS.get(it["name"], float("inf"))]
    return int(arguments.check and bool(missed))


def _figures(row: Row, measured: list[rounds.Round]) -> dict[str, Any]:
    cpu = spread(it.cpu_us[row.name] for it in measured)
    ratio = spread(it.cpu_us[HOT] / it.cpu_us[row.name] for it in measured)
    return {
        "name": row.name,
        "says": row.says,
        "cpu_us": (cpu.lower, cpu.middle, cpu.upper),
        "hot_over_this": (ratio.lower, ratio.middle, ratio.upper),
    }


def is_had(get: Callable[[], object], missing: list[str]) -> bool:
    """Whether what a peer needs is here, fetched the first time."""
    try:
        get()
    except (NotInstallable, keycloak.NotInstallable, OSError) as exc:
        missing.append(str(exc))
        return False
    return True


def install_keycloak() -> None:
    if shutil.which("java") is None:
        raise NotInstallable("Keycloak needs Java 17 or later.")
    keycloak.install()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--warm", type=int, default=3_000, help="requests to each before anything is measured")
    parser.add_argument("--without-keycloak", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    if not sys.platform.startswith("linux"):
        sys.exit("The benchmarks read Linux's CPU clocks of other processes: run them on Linux.")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()

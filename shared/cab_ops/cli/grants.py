"""`cab grants`: look at grants (never at their tokens), revoke them, allow again what only the organisation can, move them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, Final

import click

from cab.domain.grants import SERVABLE, Grant, GrantStatus
from cab.stores.grants import Grants, Spread
from cab_ops.cli.cloud import TAKES_AN_ID, Cloud, json_option, project_option, run

SHOWN = {
    *("grant_id", "tenant", "subject", "connection", "provider", "provider_class", "status", "seq", "secret_version"),
    *(
        "fail_count",
        "fail_cause",
        "scopes",
        "upstream_account",
        "upstream_account_name",
        "access_expires_at",
        "refreshed_at",
    ),
    *("storage", "connected_at", "last_used_at", "ends_unused_at", "next_try_at", "due_at"),
}

ALL: Final = 100_000_000
MOVED_AT_ONCE: Final = 20  # each is a few waits
_LOOKS_AGAIN_S: Final = 20.0


def _origin(_ctx: click.Context, _parameter: click.Parameter, url: str) -> str:
    if not re.fullmatch(r"https?://[^/?#\s]+", url):  # tokens are for it as it is written
        raise click.BadParameter(
            "an origin such as https://refresh-grants-NUMBER.REGION.run.app, with nothing behind it."
        )
    return url


url_option = click.option(
    "--url",
    envvar="CAB_REFRESH_GRANTS_URL",
    show_envvar=True,
    required=True,
    callback=_origin,
    help="Address of refresh_grants.",
)


@click.group("grants")
def grants_group() -> None:
    """List, inspect, revoke and move grants, and allow them again."""


@grants_group.command("list")
@project_option
@click.option("--tenant", help="Only grants of this tenant.")
@click.option("--subject", help="Only grants of this user (the `sub` of assertions).")
@click.option("--connection", help="Only grants at this connection.")
@click.option(
    "--status", type=click.Choice([status.value for status in GrantStatus]), help="Only grants in this state."
)
@json_option
def list_grants(project: str, *, as_json: bool, **equal: str | None) -> None:
    """List grants with their health. Fails when options are given that match none: one of them may be misspelt."""
    wanted = {name: value for name, value in equal.items() if value is not None}

    async def read(cloud: Cloud) -> list[Grant]:
        return [stored.grant for stored in await Grants(cloud.grants).matching(equal=wanted)]

    found = run(project, read)
    if as_json:
        click.echo(json.dumps([_shown(grant) for grant in found]))
    if not found and wanted:
        raise click.ClickException(_no_grant(wanted))
    if as_json:
        return
    if not found:
        click.echo("nothing found")
    for grant in found:
        cause = f"  {grant.fail_cause}" if grant.fail_cause else ""
        if grant.ends_at is not None and grant.status in SERVABLE:
            cause += f"  no refresh token: ends {grant.ends_at:%Y-%m-%d %H:%M} UTC"
        whose = f"{grant.tenant} {grant.subject[:7]}…  seq {grant.seq:<4}"
        click.echo(f"{grant.status.value:<13} {grant.connection:<12} {whose} {grant.grant_id}{cause}")


@grants_group.command("show", context_settings=TAKES_AN_ID)
@project_option
@click.argument("grant_id")
def show(project: str, grant_id: str) -> None:
    """Everything known of one grant but its tokens, as JSON."""
    from cab.transport.grants_http import GRANT_ID

    if not GRANT_ID.fullmatch(grant_id):
        raise click.UsageError("That is no id of a grant: `cab grants list` shows them.")

    async def read(cloud: Cloud) -> Grant | None:
        stored = await Grants(cloud.grants).read(grant_id)
        return None if stored is None else stored.grant

    grant = run(project, read)
    if grant is None:
        raise click.ClickException("There is no such grant.")
    click.echo(json.dumps(_shown(grant), indent=2))


@grants_group.command("revoke")
@url_option
@click.option("--grant", "grant_id", help="One grant.")
@click.option("--tenant", help="Every grant of this tenant, narrowed by --subject and --connection.")
@click.option("--subject", help="Only this user's grants.")
@click.option("--connection", help="Only grants at this connection.")
@click.option("--cause", default="operator", show_default=True, help="Why, for the audit.")
@json_option
def revoke(url: str, *, as_json: bool, cause: str, **names: str | None) -> None:
    """End grants: effective at the next exchange everywhere, then upstream. Asks refresh_grants with your own identity.

    Fails when the names match no grant: nothing was revoked, and one of them may be misspelt.
    """
    document = {name: value for name, value in names.items() if value is not None}
    if "grant_id" not in document and "tenant" not in document:
        raise click.UsageError("Give --grant or --tenant.")
    revoked = asyncio.run(ask_refresh_grants(url, "revoke", document | {"cause": cause}))["revoked"]
    if as_json:
        click.echo(json.dumps(revoked))
    if not revoked:
        raise click.ClickException(f"{_no_grant(document)} Nothing was revoked.")
    if as_json:
        return
    for item in revoked:
        upstream = {True: "also upstream", False: "not upstream", None: "had ended before"}[item["upstream"]]
        click.echo(f"revoked {item['connection']:<12} {item['grant_id']}  {upstream}")
    click.echo("1 grant" if len(revoked) == 1 else f"{len(revoked)} grants")


@grants_group.command("allow", context_settings=TAKES_AN_ID)
@url_option
@click.option("--cause", default="operator", show_default=True, help="Why, for the audit.")
@click.argument("grant_id")
def allow(url: str, cause: str, grant_id: str) -> None:
    """Take back a revocation at a connection without a consent screen, where the user cannot connect again."""
    answer = asyncio.run(ask_refresh_grants(url, "allow", {"grant_id": grant_id, "cause": cause}))
    click.echo("allowed again" if answer["allowed"] else "it had not ended")


@grants_group.command("move")
@project_option
@url_option
@click.option("--tenant", help="Only grants of this tenant.")
@click.option("--connection", help="Only grants at this connection.")
@click.option(
    "--wait",
    "wait_s",
    default=600,
    show_default=True,
    help="For how many seconds to come back to grants that are in use.",
)
@json_option
def move(project: str, url: str, wait_s: int, *, as_json: bool, **equal: str | None) -> None:
    """Move grants to the `grant_storage` of the configuration from `grant_storage_before`, while agents use them.

    Safe to stop and to run again, also twice at once. Fails when some are left: they are in use, or cannot be moved.
    """
    wanted = {name: value for name, value in equal.items() if value is not None}

    async def read(cloud: Cloud) -> list[Grant]:
        return [stored.grant for stored in await Grants(cloud.grants).matching(equal=wanted, limit=ALL)]

    found = run(project, read)
    came = asyncio.run(_moved(url, found, wait_s=wait_s))
    counted = {word: list(came.values()).count(word) for word in ("moved", "there", "waits", "missing")}
    left = sorted(name for name, word in came.items() if word == "waits")
    if as_json:
        click.echo(json.dumps(counted | {"left": left}))
    else:
        click.echo(f"moved {counted['moved']}, there already {counted['there']}, left {counted['waits']}")
    if left:
        raise click.ClickException(
            "Some grants are in use or damaged (`cab grants show`): run this again. Until none is left, keep grant_storage_before."
        )


@grants_group.command("spread")
@project_option
@click.option(
    "--undo",
    is_flag=True,
    help="Have sweeps ask for all grants together again: before going back to an earlier release.",
)
@json_option
def spread(project: str, *, undo: bool, as_json: bool) -> None:
    """Have sweeps ask for due grants in 64 parts, so that no index bounds how many grants are refreshed in a second.

    Safe to stop and to run again, also twice at once. Fails when some grants are left, because they are in use.
    """

    if undo:
        run(project, lambda cloud: Grants(cloud.grants).gather())
        click.echo(json.dumps({"spread": False}) if as_json else "together again")
        return

    async def work(cloud: Cloud) -> Spread:
        return await Grants(cloud.grants).spread()

    done = run(project, work)
    if as_json:
        click.echo(json.dumps({"spread": not done.left, "written": done.written, "left": done.left}))
    else:
        click.echo(f"written {done.written}, left {done.left}")
    if done.left:
        raise click.ClickException(
            "Some grants are in use: run this again. Until none is left, sweeps go on as before."
        )


async def _moved(url: str, grants: list[Grant], *, wait_s: float) -> dict[str, str]:
    """What came of each grant. Those that wait are asked for again until the time is over."""
    deadline = time.monotonic() + wait_s
    came: dict[str, str] = {}
    left, to = [(grant.grant_id, grant.storage) for grant in grants], None
    while left:
        for first in range(0, len(left), MOVED_AT_ONCE):
            names = [name for name, storage in left[first : first + MOVED_AT_ONCE] if to is None or storage != to]
            if names:
                answer = await ask_refresh_grants(url, "move", {"grant_ids": names})
                to = answer["to"]
                came |= answer["came"]
            came |= {name: "there" for name, _ in left[first : first + MOVED_AT_ONCE] if name not in came}
        left = [(name, None) for name, word in came.items() if word == "waits"]
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        if left:
            await asyncio.sleep(min(_LOOKS_AGAIN_S, remaining))
    return came


async def ask_refresh_grants(url: str, what: str, document: dict[str, Any]) -> dict[str, Any]:
    """refresh_grants' answer. Each command is a transaction of its own, which is on standard error for `cab audit trace`."""
    from cab.adapters.google_cloud.service_tokens import GoogleServiceTokens
    from cab.adapters.http.client import AiohttpClient
    from cab.adapters.system import SystemClock, SystemRandomness
    from cab.encoding import strict_json
    from cab.ports import Unavailable

    txn = SystemRandomness().token(16)
    click.echo(f"txn {txn}", err=True)
    http = AiohttpClient([url], what="grants", allow_loopback_http=url.startswith("http://127.0.0.1"))
    try:
        try:
            token = await GoogleServiceTokens(SystemClock()).identity_token(url)
        except Unavailable as error:
            raise click.ClickException(
                "You have no identity that may ask: it takes one of the module's `operators`, impersonated "
                "(GOOGLE_APPLICATION_CREDENTIALS) or of this machine. `cab grants revoke` in docs/cli.md says how."
            ) from error
        headers = {"Authorization": f"Bearer {token}"}
        answer = await http.post_json(f"{url}/grants/{what}", document | {"txn": txn}, headers=headers, timeout_s=60)
    except Unavailable as error:
        raise click.ClickException(
            f"{url} did not answer within a minute, or cannot be reached from here. What was done meanwhile stays done: run this again."
        ) from error
    finally:
        await http.close()
    content = strict_json.load_object(answer.body)
    if answer.status != 200:
        raise click.ClickException(
            f"refused: {content.get('reason_code')}. {content.get('error_description', '')}".rstrip()
        )
    return content


def _no_grant(names: dict[str, str]) -> str:
    wanted = ", ".join(f"{name.removesuffix('_id')} {value}" for name, value in names.items())
    return f"No grant matches {wanted}. `cab grants list` shows what there is."


def _shown(grant: Grant) -> dict[str, Any]:
    ends_at = None if grant.ends_at is None else grant.ends_at.isoformat()
    return grant.model_dump(mode="json", include=SHOWN) | {"lasts": grant.lasts, "ends_at": ends_at}

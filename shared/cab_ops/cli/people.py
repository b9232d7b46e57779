"""`cab people`: what is kept of one person, and how it goes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Final

import click

from cab.domain.identifiers import SUBJECT_KEY, subject_key
from cab.ports import Unavailable
from cab_ops.cli.cloud import TAKES_AN_ID, json_option, project_option
from cab_ops.cli.grants import ask_refresh_grants, url_option
from cab_ops.forget_person import ForgetPerson, Forgotten

_LOOKS_AGAIN_S: Final = 2.0


@click.group("people")
def people_group() -> None:
    """Forget a person."""


@people_group.command("forget", context_settings=TAKES_AN_ID)
@project_option
@url_option
@click.option("--tenant", required=True, help="Where the person belongs.")
@click.option("--idp", help="SUBJECT is the person's name at this identity provider (its issuer).")
@click.option("--wait", default=150, show_default=True, help="Seconds to wait until the grants' tokens are destroyed.")
@json_option
@click.argument("subject")
def forget(project: str, url: str, tenant: str, idp: str | None, wait: int, subject: str, *, as_json: bool) -> None:
    """Delete what is kept of SUBJECT (the `sub` of assertions): grants, sessions, approvals, issued tokens.

    Grants are ended first, at their providers too. The audit keeps its rows: the key in them leads to nobody without the identity
    provider (docs/privacy.md). Exits with 1 when grants are still being ended after --wait: run it again.
    """
    if idp is None and not SUBJECT_KEY.fullmatch(subject):  # nothing is kept under it, and that would look like success
        raise click.UsageError("SUBJECT is no key. If it is the person's name at an identity provider, give --idp.")
    key = subject if idp is None else subject_key(tenant, idp, subject)
    asked = {"tenant": tenant, "subject": key, "cause": "erasure"}
    try:
        asyncio.run(ask_refresh_grants(url, "revoke", asked))
        done = asyncio.run(_forget(project, tenant, key, wait))
    except Unavailable as error:
        raise click.ClickException(f"{error.what} cannot be reached: run it again, nothing is lost.") from error
    if as_json:
        click.echo(json.dumps({"deleted": done.deleted, "still_ending": done.still_ending}))
    else:
        for name, number in done.deleted.items():
            click.echo(f"{name:<18} {number}")
    if not done.still_ending and not any(done.deleted.values()):
        click.echo(
            "Nothing was kept. If that is unexpected: TENANT and --idp must be as the configuration says.", err=True
        )
    if done.still_ending:
        raise click.ClickException(f"{done.still_ending} grants are still being ended: run it again in a minute.")


async def _forget(project: str, tenant: str, subject: str, wait_s: int) -> Forgotten:
    from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments

    opened = {name: FirestoreDocuments(project, name) for name in ("guards", "approvals", "grants")}
    try:
        work = ForgetPerson(guards=opened["guards"], approvals=opened["approvals"], grants=opened["grants"])
        return await until_ended(work, tenant, subject, wait_s)
    finally:
        for documents in opened.values():
            await documents.close()


async def until_ended(work: ForgetPerson, tenant: str, subject: str, wait_s: float) -> Forgotten:
    """Look again until no grant is left that is being ended, or until the time is over. What was deleted is added up."""
    deadline = time.monotonic() + wait_s
    done = await work(tenant, subject)
    while done.still_ending and time.monotonic() < deadline:
        await asyncio.sleep(min(_LOOKS_AGAIN_S, max(0.0, deadline - time.monotonic())))
        more = await work(tenant, subject)
        summed = {name: number + more.deleted[name] for name, number in done.deleted.items()}
        done = Forgotten(summed, more.still_ending)
    return done

"""`cab idp`: try an identity provider, or a token of it, against the live one."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click

from cab.adapters.configuration.loader import inspect_folder
from cab.domain.configured.connections import SecretReference
from cab.domain.configured.deployment import BrowserLogin, Deployment, IdentityProvider
from cab_ops.check_connection import Finding, Holds
from cab_ops.check_identity_provider import CheckIdentityProvider
from cab_ops.cli.cloud import json_option
from cab_ops.cli.trying.findings import load_folder, tell
from cab_ops.configuration.places import Places


@click.group("idp")
def idp_group() -> None:
    """Try identity providers against the live ones."""


@idp_group.command("check")
@click.argument("subject", metavar="TOKEN|ISSUER")
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
@json_option
def check(subject: str, *, folder: Path, as_json: bool) -> None:
    """Say check by check whether people of ISSUER can log in: the configured entry and its warnings, discovery, endpoints,
    key set and which of its keys are usable, algorithms, clock.

    With a TOKEN (an ID token or ID-JAG: itself, a file that holds it, or - for standard input) also what of it holds:
    header, signature, issuer, audience, times, subject claim, groups. The token is sent nowhere and not printed. Exits with
    1 when a check does not hold, with 2 when the configuration cannot be read.
    """
    deployment = load_folder(folder)
    if subject.startswith(("https://", "http://")):
        issuer, token = _issuer(subject), None
    else:
        issuer, token = None, _token(subject)
    findings, idp, redirect_uri = asyncio.run(_check(deployment, folder, issuer, token))
    tell(
        findings,
        {"issuer": idp and idp.issuer, "tenant": idp and idp.tenant, "redirect_uri": redirect_uri},
        as_json=as_json,
        width=24,
        last_line=f"redirect URI to register there for the pages: {redirect_uri}",
    )


def _issuer(subject: str) -> str:
    try:
        urlsplit(subject)
    except ValueError as error:
        raise click.UsageError("The issuer is no URL.") from error
    return subject


def _token(subject: str) -> str:
    """The token itself, from standard input, from a file, or as it was given."""
    if subject == "-":
        return sys.stdin.read().strip()
    try:
        return Path(subject).read_text("utf-8").strip()
    except (OSError, ValueError):  # its text would quote what may be a token
        if subject.count(".") == 2:
            return subject
    raise click.UsageError("The argument is no issuer's URL, no token, and no file that can be read.")


async def _check(
    deployment: Deployment, folder: Path, issuer: str | None, token: str | None
) -> tuple[list[Finding], IdentityProvider | None, str]:
    from cab.adapters.http.aiohttp_wire import why_failed
    from cab.adapters.http.client import AiohttpClient
    from cab.adapters.http.origins import origin_of
    from cab.adapters.keys.key_sets import RemoteKeySets, source_of
    from cab.adapters.system import SystemClock

    configured = deployment.identity_provider_by_issuer
    trial = None if issuer is None else configured.get(issuer) or _unconfigured(issuer)
    tried = [*configured.values(), *([trial] if trial is not None else [])]
    urls = [url for it in tried for url in (it.issuer, it.jwks_uri, *it.endpoint_origins) if url is not None]
    http = AiohttpClient(
        {origin_of(url) for url in urls},
        what="identity_provider",
        allow_loopback_http=deployment.broker.allow_loopback_http,
        private_hosts=deployment.broker.private_hosts,
        keep_alive=False,
    )
    clock = SystemClock()
    keys = RemoteKeySets({it.issuer: source_of(it) for it in tried}, http, clock)
    checks = CheckIdentityProvider(deployment, http, keys, clock, why=why_failed)
    try:
        found: list[Finding] = []
        idp = trial
        if token is not None:
            found, idp = checks.form(token), checks.provider_of(token)
        if idp is not None:
            found += _entry(deployment, folder, idp) if token is None else _warnings(deployment, folder, idp)
            found += await checks.issuer(idp)
        if token is not None and idp is not None:
            found += await checks.token(token, idp)
        return found, idp, checks.redirect_uri(idp)
    finally:
        await http.close()


def _unconfigured(issuer: str) -> IdentityProvider:
    """An entry as short as an entry can be, to try what the issuer publishes before one is written."""
    login = BrowserLogin(client_id="unconfigured", client_secret=SecretReference(secret="unconfigured"))
    return IdentityProvider(issuer=issuer, tenant="unconfigured", login=login)


def _entry(deployment: Deployment, folder: Path, idp: IdentityProvider) -> list[Finding]:
    if idp in deployment.identity_providers:
        says = f"tenant {idp.tenant}, subject_claim {idp.subject_claim}"
        return [Finding("entry", Holds.YES, says), *_warnings(deployment, folder, idp)]
    known = ", ".join(sorted(deployment.identity_provider_by_issuer))
    return [Finding("entry", Holds.NO, f"no entry has exactly this issuer; there are: {known}")]


def _warnings(deployment: Deployment, folder: Path, idp: IdentityProvider) -> list[Finding]:
    """What `cab config validate` has to say about this entry."""
    at = Places(folder).identity_provider(deployment.identity_providers.index(idp))
    return [
        Finding("entry: warning", Holds.UNKNOWN, f"{it.file}:{it.line}: {it.message}; {it.remedy}")
        for it in inspect_folder(folder, os.environ).problems
        if at is not None and it.file == at[0] and it.line in at[1]
    ]

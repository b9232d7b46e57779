"""`cab keys`: make and rotate the broker's own keys. Private keys go from memory to Secret Manager and nowhere else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable
from typing import Any

import click

from cab.adapters.sealed_documents import DATA_KEY_SECRET
from cab.adapters.secret_names import checked_secret
from cab.adapters.system import SystemClock
from cab.encoding.sealing import KEY_BYTES
from cab.ports import Conflict, NotFound, SecretVault, Unavailable
from cab.stores.signing_keys import Issuer, KeyRing, SigningKey, SigningKeys
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET
from cab_ops.cli.cloud import TAKES_AN_ID, Cloud, json_option, project_option, run
from cab_ops.rotate_keys import NotDestroyed, RotateKeys, Step, TooEarly

issuer_option = click.option(
    "--issuer", type=click.Choice([item.value for item in Issuer]), required=True, help="Whose keys."
)


@click.group("keys")
def keys_group() -> None:
    """Create, rotate and list the broker's signing keys."""


@keys_group.command("init")
@project_option
def init(project: str) -> None:
    """Make the first keys of a new deployment. Safe to repeat: what exists is left alone."""
    try:
        made = run(project, make_keys)
    except Conflict as error:
        raise click.ClickException(str(error)) from error
    for line in made:
        click.echo(line)


async def make_keys(cloud: Cloud) -> list[str]:
    """Signing keys of both issuers and the two data keys. Returns what was made."""
    rotation = RotateKeys(SigningKeys(cloud.keys), cloud.vault, SystemClock())
    made = [
        f"{issuer.value}: signing key {step.kid} is active"
        for issuer in Issuer
        if (step := await rotation.init(issuer)) is not None
    ]
    made += [
        f"{secret}: version {version} made"
        for secret in (ESCROW_SECRET, DATA_KEY_SECRET)
        if (version := await _make_data_key(cloud.vault, secret)) is not None
    ]
    return made or ["all keys exist already"]


async def _make_data_key(vault: SecretVault, secret: str) -> int | None:
    await vault.create(secret)
    try:
        await vault.access(secret, 1)
    except NotFound:
        return await vault.add(secret, os.urandom(KEY_BYTES))
    return None


@keys_group.command("add-data-key")
@project_option
@click.option("--of", type=click.Choice(["escrow", "grants"]), required=True, help="Which key gets a new version.")
@json_option
def add_data_key(project: str, of: str, *, as_json: bool) -> None:
    """Add a version of a key that token sets are sealed under, and say what to enter in broker.yaml.

    Nothing uses it before the next deployment with that line. What was sealed before stays readable: keep the older versions.
    """
    secret, setting = {"escrow": (ESCROW_SECRET, "escrow_key"), "grants": (DATA_KEY_SECRET, "grant_data_key")}[of]

    async def add(cloud: Cloud) -> int:
        return await cloud.vault.add(secret, os.urandom(KEY_BYTES))

    version = run(project, add)
    if as_json:
        click.echo(json.dumps({"secret": secret, "version": version, "setting": setting}))
        return
    click.echo(f"{secret}: version {version} made; now enter `{setting}: {version}` in broker.yaml and deploy")


@keys_group.command("add-secret", context_settings=TAKES_AN_ID)
@project_option
@json_option
@click.argument("name")
def add_secret(project: str, name: str, *, as_json: bool) -> None:
    """Add a version of the client secret NAME, read from standard input, and say what to enter in the configuration.

    Nothing uses it before the next deployment with that number. Have the other side accept both until that deployment serves alone.
    """
    value = sys.stdin.buffer.read().strip()
    if not value:
        raise click.ClickException("Nothing came on standard input: a secret cannot be empty.")
    try:
        checked_secret(name)
        value.decode()
    except ValueError as error:
        what = "The secret is no UTF-8 text." if isinstance(error, UnicodeDecodeError) else f"{name}: {error}"
        raise click.UsageError(what) from error

    async def add(cloud: Cloud) -> int:
        try:
            return await cloud.vault.add(name, value)
        except Unavailable as error:
            raise click.ClickException(
                f"Not added: there is no secret {name} (Terraform makes those of provider_secrets), you may not add to it, "
                "or Secret Manager cannot be reached."
            ) from error

    version = run(project, add)
    if as_json:
        click.echo(json.dumps({"secret": name, "version": version}))
        return
    click.echo(
        f"{name}: version {version} made; now enter `version: {version}` where the configuration names it and deploy"
    )


@keys_group.command("list")
@project_option
@json_option
def list_keys(project: str, *, as_json: bool) -> None:
    """Show every key: kid, state, since when."""

    async def read(cloud: Cloud) -> list[dict[str, Any]]:
        store = SigningKeys(cloud.keys)
        rings = [(issuer, await store.ring(issuer)) for issuer in Issuer]
        return [
            {
                "issuer": issuer.value,
                "kid": key.kid,
                "state": state,
                "since": key.changed_at.isoformat(timespec="seconds"),
                "secret_version": key.secret_version,
            }
            for issuer, ring in rings
            for key, state in (_with_states(ring) if ring else ())
        ]

    rows = run(project, read)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['issuer']:<5} {row['state']:<10} {row['since']}  {row['kid']}")


def _with_states(ring: KeyRing) -> list[tuple[SigningKey, str]]:
    """`removed`: off the set, and its private half is still to be destroyed."""
    return [(key, key.state.value) for key in ring.keys] + [(key, "removed") for key in ring.removed]


@keys_group.group("rotate")
def rotate() -> None:
    """Replace a signing key without one failed verification: publish, wait, activate, wait, retire."""


def _step(name: str, summary: str) -> None:
    @rotate.command(name, help=summary)
    @project_option
    @issuer_option
    @json_option
    def command(project: str, issuer: str, *, as_json: bool) -> None:
        def work(cloud: Cloud) -> Awaitable[Step]:
            rotation = RotateKeys(SigningKeys(cloud.keys), cloud.vault, SystemClock())
            step: Awaitable[Step] = getattr(rotation, name)(Issuer(issuer))
            return step

        try:
            done = run(project, work)
        except (TooEarly, LookupError, Conflict, NotDestroyed) as error:
            raise click.ClickException(str(error)) from error
        ready = done.ready_at.isoformat(timespec="seconds") if done.ready_at else None
        if as_json:
            click.echo(json.dumps({"done": done.done, "kid": done.kid, "next": done.next, "ready_at": ready}))
            return
        click.echo(f"{done.done} {done.kid}" + (f"; next: {done.next}, not before {ready}" if done.next else ""))


@keys_group.command("remove-leaked", context_settings=TAKES_AN_ID)
@project_option
@issuer_option
@json_option
@click.argument("kid")
def remove_leaked(project: str, issuer: str, kid: str, *, as_json: bool) -> None:
    """Emergency: take the key KID off the set now and destroy it; if it signs, a new key does so from now on.

    Everything it signed fails at once where keys are read anew. docs/runbooks/leaked-signing-key.md says what to do around it.
    """

    def work(cloud: Cloud) -> Awaitable[Step]:
        return RotateKeys(SigningKeys(cloud.keys), cloud.vault, SystemClock()).replace_leaked(Issuer(issuer), kid)

    try:
        done = run(project, work)
    except (LookupError, Conflict, NotDestroyed) as error:
        raise click.ClickException(str(error)) from error
    until = done.ready_at.isoformat(timespec="seconds") if done.ready_at else None
    if as_json:
        click.echo(json.dumps({"done": done.done, "kid": done.kid, "forgotten_at": until}))
        return
    click.echo(f"removed {done.kid}; verifiers that remember key sets forget it by {until}")


_step("publish", "Add a new key that verifies but does not sign yet.")
_step("activate", "Sign with the published key, once every verifier can know it.")
_step("retire", "Take retired keys off the set, once no token they signed can live.")

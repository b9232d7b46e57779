"""Secrets and their versions in SQLite. Names carry the project id; numbers run from 1 without gaps."""

from __future__ import annotations

import time
from dataclasses import dataclass

from google.cloud.secretmanager_v1.types import Secret, SecretVersion

from gcp_emulators.permissions.projects import project_number
from gcp_emulators.storage import open_database, prefix_range

_SCHEMA = """
create table if not exists project(number text primary key, id text not null);
create table if not exists secret(
    name text primary key, created_at real not null, body blob not null,
    latest integer not null default 0, policy blob not null default x'');
create table if not exists version(
    secret text not null, number integer not null, created_at real not null,
    body blob not null, payload blob not null, primary key (secret, number));
"""


@dataclass(frozen=True)
class StoredVersion:
    """One version as stored. `created_at` is in seconds since 1970; a destroyed version has an empty payload."""

    secret: str
    number: int
    created_at: float
    body: SecretVersion
    payload: bytes


class SecretStore:
    """Plain reads and writes; rules and errors are the service's."""

    def __init__(self, data_dir: str) -> None:
        self.connection = open_database(data_dir, "secret_manager", _SCHEMA)

    def project_id(self, project: str) -> str:
        """The id of a project given by id or number. A number nobody has used an id for stands for itself."""
        row = self.connection.execute("select id from project where number = ?", (project,)).fetchone()
        if row is not None:
            return str(row[0])
        self.connection.execute("insert or ignore into project values (?, ?)", (project_number(project), project))
        return project

    def secret(self, name: str) -> Secret | None:
        row = self.connection.execute("select body from secret where name = ?", (name,)).fetchone()
        return None if row is None else Secret.deserialize(row[0])

    def add_secret(self, secret: Secret) -> None:
        self.connection.execute(
            "insert into secret(name, created_at, body) values (?, ?, ?)",
            (secret.name, time.time(), Secret.serialize(secret)),
        )

    def update_secret(self, secret: Secret) -> None:
        self.connection.execute("update secret set body = ? where name = ?", (Secret.serialize(secret), secret.name))

    def delete_secret(self, name: str) -> None:
        self.connection.execute("delete from secret where name = ?", (name,))
        self.connection.execute("delete from version where secret = ?", (name,))

    def secrets(self, parent: str) -> list[tuple[float, Secret]]:
        """Creation time and body of every secret of a project or location, newest first."""
        rows = self.connection.execute(
            "select created_at, body from secret where name >= ? and name < ? order by created_at desc, name",
            prefix_range(f"{parent}/secrets/"),
        )
        return [(created_at, Secret.deserialize(body)) for created_at, body in rows]

    def policy(self, secret: str) -> bytes:
        (policy,) = self.connection.execute("select policy from secret where name = ?", (secret,)).fetchone()
        return bytes(policy)

    def set_policy(self, secret: str, policy: bytes) -> None:
        self.connection.execute("update secret set policy = ? where name = ?", (policy, secret))

    def latest_number(self, secret: str) -> int:
        """The highest number given out; 0 when the secret has no version."""
        (number,) = self.connection.execute("select latest from secret where name = ?", (secret,)).fetchone()
        return int(number)

    def version(self, secret: str, number: int) -> StoredVersion | None:
        row = self.connection.execute(
            "select created_at, body, payload from version where secret = ? and number = ?", (secret, number)
        ).fetchone()
        if row is None:
            return None
        return StoredVersion(secret, number, row[0], SecretVersion.deserialize(row[1]), bytes(row[2]))

    def versions(self, secret: str) -> list[StoredVersion]:
        """All versions, newest first."""
        rows = self.connection.execute(
            "select number, created_at, body, payload from version where secret = ? order by number desc",
            (secret,),
        )
        return [
            StoredVersion(secret, number, created_at, SecretVersion.deserialize(body), bytes(payload))
            for number, created_at, body, payload in rows
        ]

    def put_version(self, version: StoredVersion) -> None:
        """Add a version, which makes its number the latest, or replace it."""
        self.connection.execute(
            "insert or replace into version values (?, ?, ?, ?, ?)",
            (
                version.secret,
                version.number,
                version.created_at,
                SecretVersion.serialize(version.body),
                version.payload,
            ),
        )
        self.connection.execute(
            "update secret set latest = max(latest, ?) where name = ?", (version.number, version.secret)
        )

    def delete_project(self, project: str) -> None:
        """Remove every secret of a project given by id."""
        names = prefix_range(f"projects/{project}/")
        self.connection.execute("delete from secret where name >= ? and name < ?", names)
        self.connection.execute("delete from version where secret >= ? and secret < ?", names)

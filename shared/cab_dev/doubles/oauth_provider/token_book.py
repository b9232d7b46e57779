"""Every code, token and grant of a provider double, and the ledger of what happened to them.

Only SHA-256 digests of tokens are kept, in SQLite: in memory, or in a file so that a killed process keeps them. All
methods are short, synchronous and serialised by one lock. The ledger is append-only; it is the oracle for "exactly one
refresh" and for "this grant is lost".
"""

import base64
import hashlib
import json
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from cab_dev.doubles.clock import Clock
from cab_dev.doubles.oauth_provider.profiles import (
    Narrowing,
    OldAccessToken,
    ProviderProfile,
    RefreshAnswer,
    RefreshClass,
    RevocationRadius,
)

CODE_LIFE_S = 60
WIDENED_SCOPE = "admin.all"  # what a provider that widens adds on its own

_SCHEMA = """
CREATE TABLE IF NOT EXISTS grants (
  grant_id TEXT PRIMARY KEY, client_id TEXT, account TEXT, scope TEXT, created_at REAL, revoked_at REAL);
CREATE TABLE IF NOT EXISTS tokens (
  sha256 TEXT PRIMARY KEY, kind TEXT, grant_id TEXT, scope TEXT, issued_at REAL, expires_at REAL,
  spent_at REAL, revoked_at REAL, predecessor TEXT);
CREATE TABLE IF NOT EXISTS codes (
  sha256 TEXT PRIMARY KEY, client_id TEXT, account TEXT, redirect_uri TEXT, scope TEXT, challenge TEXT,
  expires_at REAL, used_at REAL, grant_id TEXT);
CREATE TABLE IF NOT EXISTS ledger (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, event TEXT, kind TEXT, token_sha256 TEXT, grant_id TEXT,
  detail TEXT);
CREATE INDEX IF NOT EXISTS tokens_of_grant ON tokens (grant_id);
"""


class GrantRefused(Exception):
    """`invalid_grant`. `why` goes to the ledger, never to the client."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class ScopeRefused(Exception):
    """`invalid_scope`: more than was granted, or nothing at all."""


@dataclass(frozen=True)
class IssuedTokens:
    """A successful token answer before it is written down. `scope` is what the answer says, in granted order."""

    access_token: str
    refresh_token: str | None
    scope: tuple[str, ...]
    expires_in: int
    grant_id: str

    def __repr__(self) -> str:
        return f"IssuedTokens(grant_id={self.grant_id!r})"


@dataclass(frozen=True)
class AcceptedToken:
    """A live access token: whose it is and what it may do."""

    account: str
    client_id: str
    scopes: frozenset[str]
    grant_id: str


def token_sha256(token: str) -> str:
    """The name a token has in the ledger: lower-case hex of SHA-256 over its UTF-8 bytes."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def s256(verifier: str) -> str:
    """The PKCE code challenge of a verifier. RFC 7636 section 4.2."""
    digest = hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


class TokenBook:
    """Issues, rotates and kills tokens as `profile` says, at the times `clock` tells."""

    def __init__(self, profile: ProviderProfile, clock: Clock, *, database: str = ":memory:") -> None:
        self.profile = profile
        self._clock = clock
        self._lock = threading.Lock()
        self._db = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")  # survives a killed process, which is all a double needs
        self._db.executescript(_SCHEMA)
        # Also when nobody calls it: Python 3.13 warns of a database that is left open.
        self.close = weakref.finalize(self, self._db.close)

    @contextmanager
    def _change(self) -> Iterator[float]:
        """One atomic change under the lock; yields the time it happens at. A refusal keeps its ledger lines."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._clock()
            except (GrantRefused, ScopeRefused):
                self._db.execute("COMMIT")
                raise
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # --- codes and grants ---------------------------------------------------------------------------------------------

    def issue_code(
        self, *, client_id: str, account: str, redirect_uri: str, scopes: Iterable[str], challenge: str
    ) -> str:
        """An authorization code for what the user just allowed; lives 60 s and works once."""
        code = secrets.token_urlsafe(32)
        with self._change() as now:
            self._db.execute(
                "INSERT INTO codes VALUES (?,?,?,?,?,?,?,NULL,NULL)",
                (
                    token_sha256(code),
                    client_id,
                    account,
                    redirect_uri,
                    " ".join(scopes),
                    challenge,
                    now + CODE_LIFE_S,
                ),
            )
            self._note(now, "issued", "code", token_sha256(code), None, account=account, client_id=client_id)
        return code

    def redeem_code(self, code: str, *, client_id: str, redirect_uri: str, verifier: str) -> IssuedTokens:
        """The first tokens of a new grant. A code used twice revokes what it gave. RFC 6749 section 4.1.2.

        Raises GrantRefused.
        """
        digest = token_sha256(code)
        with self._change() as now:
            row = self._db.execute("SELECT * FROM codes WHERE sha256=?", (digest,)).fetchone()
            if row is None:
                self._refuse(now, "code", digest, None, "unknown")
            if row["used_at"] is not None:
                self._end_grant(now, row["grant_id"], "code_reused")
                self._refuse(now, "code", digest, row["grant_id"], "reused")
            if row["client_id"] != client_id or row["redirect_uri"] != redirect_uri:
                self._refuse(now, "code", digest, None, "other_client_or_redirect")
            if now >= row["expires_at"]:
                self._refuse(now, "code", digest, None, "expired")
            if s256(verifier) != row["challenge"]:
                self._refuse(now, "code", digest, None, "pkce_mismatch")
            grant_id = self._open_grant(now, client_id, row["account"], row["scope"])
            self._db.execute("UPDATE codes SET used_at=?, grant_id=? WHERE sha256=?", (now, grant_id, digest))
            self._note(now, "used", "code", digest, grant_id)
            return self._first_tokens(now, grant_id, tuple(row["scope"].split()))

    def grant_directly(
        self,
        *,
        client_id: str,
        account: str,
        scopes: Iterable[str],
        assertion: str,
        kind: str,
        claims: Mapping[str, Any],
    ) -> IssuedTokens:
        """An access token without a user in front: an issuer vouched, by an `assertion` of that `kind`. No refresh token."""
        granted = tuple(scopes)
        with self._change() as now:
            grant_id = self._open_grant(now, client_id, account, " ".join(granted))
            self._note(now, "vouched", kind, token_sha256(assertion), grant_id, claims=dict(claims))
            return self._first_tokens(now, grant_id, granted, offline=False)

    def _open_grant(self, now: float, client_id: str, account: str, scope: str) -> str:
        grant_id = "g-" + secrets.token_hex(8)
        self._db.execute("INSERT INTO grants VALUES (?,?,?,?,?,NULL)", (grant_id, client_id, account, scope, now))
        self._note(now, "granted", "grant", None, grant_id, account=account, client_id=client_id)
        return grant_id

    def _first_tokens(
        self, now: float, grant_id: str, scopes: tuple[str, ...], *, offline: bool = True
    ) -> IssuedTokens:
        wants_refresh = self.profile.offline_scope is None or self.profile.offline_scope in scopes
        access_token = self._issue(now, "access", grant_id, scopes, None)
        refresh_token = self._issue(now, "refresh", grant_id, scopes, None) if offline and wants_refresh else None
        return IssuedTokens(access_token, refresh_token, scopes, self.profile.access_token_life_s, grant_id)

    # --- refreshing ---------------------------------------------------------------------------------------------------

    def refresh(self, token: str, *, client_id: str, scopes: Iterable[str] | None) -> IssuedTokens:
        """New tokens for a refresh token, by the rules of the profile. `scopes` None asks for all that was granted.

        Raises GrantRefused, ScopeRefused.
        """
        digest = token_sha256(token)
        with self._change() as now:
            row = self._refreshable(now, digest, client_id)
            granted = tuple(row["scope"].split())
            asked = granted if scopes is None else tuple(scopes)
            if not asked or not set(asked) <= set(granted):
                raise ScopeRefused
            token_scopes, said_scopes = self._narrowed(granted, asked)
            self._kill_old_access_tokens(now, row["grant_id"])
            again = row["spent_at"] is not None
            if self.profile.refresh_class is not RefreshClass.STATIC and not again:
                self._db.execute("UPDATE tokens SET spent_at=? WHERE sha256=?", (now, digest))
            self._note(now, "refreshed", "refresh", digest, row["grant_id"], again=again)
            access_token = self._issue(now, "access", row["grant_id"], token_scopes, digest)
            answer_token: str | None = None
            if self.profile.answers_new_refresh_token:
                answer_token = self._issue(now, "refresh", row["grant_id"], granted, digest)
            elif self.profile.refresh_answer is RefreshAnswer.SAME:
                answer_token = token
            return IssuedTokens(
                access_token, answer_token, said_scopes, self.profile.access_token_life_s, row["grant_id"]
            )

    def _refreshable(self, now: float, digest: str, client_id: str) -> sqlite3.Row:
        row: sqlite3.Row | None = self._db.execute(
            "SELECT tokens.*, grants.client_id, grants.revoked_at AS grant_revoked_at FROM tokens "
            "JOIN grants USING (grant_id) WHERE sha256=? AND kind='refresh'",
            (digest,),
        ).fetchone()
        if row is None:
            self._refuse(now, "refresh", digest, None, "unknown")
        grant_id = row["grant_id"]
        if row["client_id"] != client_id:
            self._refuse(now, "refresh", digest, grant_id, "other_client")
        if row["revoked_at"] is not None or row["grant_revoked_at"] is not None:
            self._refuse(now, "refresh", digest, grant_id, "revoked")
        if row["expires_at"] is not None and now >= row["expires_at"]:
            self._refuse(now, "refresh", digest, grant_id, "expired")
        if row["spent_at"] is not None and not self._within_leeway(now, row["spent_at"]):
            if self.profile.refresh_class is RefreshClass.STRICT_FAMILY:
                self._end_grant(now, grant_id, "refresh_token_reused")
            self._refuse(now, "refresh", digest, grant_id, "reused")
        return row

    def _within_leeway(self, now: float, spent_at: float) -> bool:
        return self.profile.refresh_class is RefreshClass.LEEWAY and now < spent_at + self.profile.leeway_s

    def _narrowed(self, granted: tuple[str, ...], asked: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Scopes of the new access token, and scopes the answer names."""
        if self.profile.narrowing is Narrowing.HONOURED:
            kept = tuple(scope for scope in granted if scope in asked)
            return kept, kept
        if self.profile.narrowing is Narrowing.WIDENED:
            return (*granted, WIDENED_SCOPE), (*granted, WIDENED_SCOPE)
        return granted, granted

    def _kill_old_access_tokens(self, now: float, grant_id: str) -> None:
        if self.profile.old_access_token is OldAccessToken.LIVES:
            return
        at_once = self.profile.old_access_token is OldAccessToken.DIES_AT_ONCE
        end = now if at_once else now + self.profile.leeway_s
        self._db.execute(
            "UPDATE tokens SET expires_at=MIN(expires_at, ?) WHERE grant_id=? AND kind='access'", (end, grant_id)
        )

    def exchange(self, token: str, *, client_id: str | None, scopes: Iterable[str], for_own_api: bool) -> IssuedTokens:
        """Another access token of the same grant, for `scopes`, made from a live one, and living no longer than it.

        Without a `client_id` whoever presents the token may have it. `for_own_api`: the token presented must be one for that
        client's own API (`api://CLIENT_ID/...`) and says nothing of the scopes; else they must be among its own.
        Raises GrantRefused, ScopeRefused.
        """
        digest, asked = token_sha256(token), tuple(scopes)
        with self._change() as now:
            row: sqlite3.Row | None = self._db.execute(
                "SELECT tokens.*, grants.client_id, grants.revoked_at AS grant_revoked_at FROM tokens "
                "JOIN grants USING (grant_id) WHERE sha256=? AND kind='access'",
                (digest,),
            ).fetchone()
            if row is None:
                self._refuse(now, "exchange", digest, None, "unknown")
            state = self._state(now, row, row["grant_revoked_at"])
            if state != "live":
                self._refuse(now, "exchange", digest, row["grant_id"], state)
            if client_id is not None and row["client_id"] != client_id:
                self._refuse(now, "exchange", digest, row["grant_id"], "other_client")
            held = set(row["scope"].split())
            if for_own_api and not any(scope.startswith(f"api://{client_id}/") for scope in held):
                self._refuse(now, "exchange", digest, row["grant_id"], "other_audience")
            if not asked or not (for_own_api or set(asked) <= held):
                raise ScopeRefused
            self._note(now, "exchanged", "access", digest, row["grant_id"], scope=" ".join(asked))
            narrow = self._issue(now, "access", row["grant_id"], asked, digest, until=row["expires_at"])
            life = int(min(self.profile.access_token_life_s, row["expires_at"] - now))
            return IssuedTokens(narrow, None, asked, life, row["grant_id"])

    # --- using and revoking -------------------------------------------------------------------------------------------

    def accept(self, access_token: str) -> AcceptedToken | None:
        """Whose token this is, or None when it is not a live access token. Either way the ledger remembers."""
        digest = token_sha256(access_token)
        with self._change() as now:
            row = self._db.execute(
                "SELECT tokens.*, grants.client_id, grants.account, grants.revoked_at AS grant_revoked_at "
                "FROM tokens JOIN grants USING (grant_id) WHERE sha256=? AND kind='access'",
                (digest,),
            ).fetchone()
            if row is None:
                self._note(now, "refused", "access", digest, None, why="unknown")
                return None
            grant_id: str = row["grant_id"]
            state = self._state(now, row, row["grant_revoked_at"])
            if state != "live":
                self._note(now, "refused", "access", digest, grant_id, why=state)
                return None
            self._note(now, "used", "access", digest, grant_id)
            return AcceptedToken(row["account"], row["client_id"], frozenset(row["scope"].split()), grant_id)

    def revoke(self, token: str, *, client_id: str) -> None:
        """Revoke a token of this client, and all that the profile lets die with it. Unknown ones are no error."""
        digest = token_sha256(token)
        with self._change() as now:
            row = self._db.execute(
                "SELECT tokens.*, grants.client_id, grants.account FROM tokens JOIN grants USING (grant_id) "
                "WHERE sha256=?",
                (digest,),
            ).fetchone()
            if row is None or row["client_id"] != client_id:
                self._note(now, "refused", "unknown", digest, None, why="revoke_unknown")
                return
            self._db.execute("UPDATE tokens SET revoked_at=? WHERE sha256=? AND revoked_at IS NULL", (now, digest))
            self._note(now, "revoked", row["kind"], digest, row["grant_id"])
            if self.profile.revocation is RevocationRadius.GRANT:
                self._end_grant(now, row["grant_id"], "revoked_by_client")
            elif self.profile.revocation is RevocationRadius.ACCOUNT:
                self._end_account(now, client_id, row["account"], "revoked_by_client")

    def end_account(self, account: str) -> None:
        """The user withdraws everything at the provider itself; the client learns of it at its next request."""
        with self._change() as now:
            self._end_account(now, None, account, "revoked_by_user")

    def _end_account(self, now: float, client_id: str | None, account: str, why: str) -> None:
        rows = self._db.execute(
            "SELECT grant_id FROM grants WHERE account=? AND (? IS NULL OR client_id=?)",
            (account, client_id, client_id),
        ).fetchall()
        for row in rows:
            self._end_grant(now, row["grant_id"], why)

    def _end_grant(self, now: float, grant_id: str | None, why: str) -> None:
        changed = self._db.execute(
            "UPDATE grants SET revoked_at=? WHERE grant_id=? AND revoked_at IS NULL", (now, grant_id)
        )
        if changed.rowcount:
            self._note(now, "revoked", "grant", None, grant_id, why=why)

    def note_refused_assertion(self, assertion: str, *, why: str) -> None:
        with self._change() as now:
            self._note(now, "refused", "assertion", token_sha256(assertion), None, why=why)

    # --- the ledger ---------------------------------------------------------------------------------------------------

    def note_lost_answer(self, tokens: IssuedTokens) -> None:
        """These tokens exist, but the client was never told."""
        with self._change() as now:
            self._note(now, "answer_lost", "access", token_sha256(tokens.access_token), tokens.grant_id)
            if tokens.refresh_token is not None:
                self._note(now, "answer_lost", "refresh", token_sha256(tokens.refresh_token), tokens.grant_id)

    def ledger(self, *, since: int = 0, grant_id: str | None = None) -> list[dict[str, Any]]:
        """Entries with `seq` above `since`, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM ledger WHERE seq > ? AND (? IS NULL OR grant_id=?) ORDER BY seq",
                (since, grant_id, grant_id),
            ).fetchall()
        entries = [dict(row) for row in rows]
        return [{**entry, **json.loads(entry.pop("detail"))} for entry in entries]

    def grants(self) -> list[dict[str, Any]]:
        """Every grant with the digests of the refresh tokens that would work now, and the number of refreshes."""
        with self._lock:
            now = self._clock()
            rows = self._db.execute("SELECT * FROM grants ORDER BY created_at, grant_id").fetchall()
            return [
                {
                    "grant_id": row["grant_id"],
                    "client_id": row["client_id"],
                    "account": row["account"],
                    "scope": row["scope"],
                    "revoked": row["revoked_at"] is not None,
                    "refreshes": self._count_refreshes(row["grant_id"]),
                    "usable_refresh_tokens": [
                        token["sha256"]
                        for token in self._db.execute(
                            "SELECT * FROM tokens WHERE grant_id=? AND kind='refresh'", (row["grant_id"],)
                        )
                        if self._state(now, token, row["revoked_at"]) in ("live", "leeway")
                    ],
                }
                for row in rows
            ]

    def _count_refreshes(self, grant_id: str) -> int:
        row = self._db.execute(
            "SELECT COUNT(*) AS n FROM ledger WHERE grant_id=? AND event='refreshed'", (grant_id,)
        ).fetchone()
        return int(row["n"])

    def token_state(self, sha256: str) -> dict[str, Any] | None:
        """`live`, `leeway`, `spent`, `expired` or `revoked`, for the token with that digest; None if never issued."""
        with self._lock:
            row = self._db.execute(
                "SELECT tokens.*, grants.revoked_at AS grant_revoked_at FROM tokens JOIN grants USING (grant_id) "
                "WHERE sha256=?",
                (sha256,),
            ).fetchone()
            if row is None:
                return None
            state = self._state(self._clock(), row, row["grant_revoked_at"])
            return {"token_sha256": sha256, "kind": row["kind"], "grant_id": row["grant_id"], "state": state}

    def _state(self, now: float, token: sqlite3.Row, grant_revoked_at: float | None) -> str:
        if token["revoked_at"] is not None or grant_revoked_at is not None:
            return "revoked"
        if token["expires_at"] is not None and now >= token["expires_at"]:
            return "expired"
        if token["spent_at"] is None:
            return "live"
        return "leeway" if self._within_leeway(now, token["spent_at"]) else "spent"

    def reset(self) -> None:
        """Forget everything, ledger included."""
        with self._lock:
            for table in ("grants", "tokens", "codes", "ledger"):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the line above

    def _issue(
        self,
        now: float,
        kind: str,
        grant_id: str,
        scopes: tuple[str, ...],
        predecessor: str | None,
        *,
        until: float | None = None,
    ) -> str:
        token = secrets.token_urlsafe(32)
        life = self.profile.access_token_life_s if kind == "access" else self.profile.refresh_token_life_s
        expires_at = None if life is None else now + life
        self._db.execute(
            "INSERT INTO tokens VALUES (?,?,?,?,?,?,NULL,NULL,?)",
            (
                token_sha256(token),
                kind,
                grant_id,
                " ".join(scopes),
                now,
                expires_at if until is None or expires_at is None else min(expires_at, until),
                predecessor,
            ),
        )
        self._note(now, "issued", kind, token_sha256(token), grant_id, predecessor_sha256=predecessor)
        return token

    def _refuse(self, now: float, kind: str, digest: str, grant_id: str | None, why: str) -> NoReturn:
        self._note(now, "refused", kind, digest, grant_id, why=why)
        raise GrantRefused(why)

    def _note(self, now: float, event: str, kind: str, digest: str | None, grant_id: str | None, **detail: Any) -> None:
        self._db.execute(
            "INSERT INTO ledger (at, event, kind, token_sha256, grant_id, detail) VALUES (?,?,?,?,?,?)",
            (now, event, kind, digest, grant_id, json.dumps(detail)),
        )

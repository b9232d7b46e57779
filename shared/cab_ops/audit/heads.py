"""Signed notes of how far each chain had come, kept where the table's writers cannot write.

A note holds the head of every chain that had an event of late, and keeps what the note before it said of one that has
become shorter since: so the last note of a day says how far every chain of that day ever came. It is a compact JWS
(RFC 7515), ES256, `typ: cab-chain-heads+jws`; the object's name is its instant.

What is removed while nobody notes is in no note. So it is told, too, where notes are missing (`not_noted`): when they were
made is taken from their names, and only the last one of each day is read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from google.auth.exceptions import GoogleAuthError
from pydantic import BaseModel, ConfigDict, ValidationError
from requests.exceptions import RequestException

from cab.domain.text.safe import plain
from cab.ports import Unavailable
from cab_ops.audit.questions import Question
from cab_ops.audit.verification import Finding, Head, Kind, Tables, Verdict, verify

TYP: Final = "cab-chain-heads+jws"
REACHES_BACK: Final = timedelta(hours=26)  # a note covers its day, whenever the last one before it was made
LONGEST_PAUSE: Final = timedelta(hours=1)  # between two notes; one is made every few minutes
_NAME: Final = "heads/%Y-%m-%d/%H-%M-%S.%fZ.jws"
_KMS: Final = "https://cloudkms.googleapis.com/v1/"
_STORAGE: Final = "https://storage.googleapis.com/"
_TIMEOUT_S: Final = 20

HEADS: Final = Question(
    """
    SELECT
      chain.id AS chain_id,
      MAX(service.function) AS function_name,
      ARRAY_AGG(
        STRUCT(chain.seq AS seq, chain.`hash` AS stated, event_type AS event_type, occurred_at AS occurred_at)
        ORDER BY chain.seq DESC, received_at LIMIT 1
      )[SAFE_OFFSET(0)] AS head
    FROM events_raw
    WHERE occurred_at >= @since AND chain.id IS NOT NULL
    GROUP BY chain_id
    """,
    ("since",),
)

PublicKeys = Sequence[EllipticCurvePublicKey]
Sign = Callable[[bytes], bytes]  # 64 bytes, as JWS has them (RFC 7518 section 3.4)


class BadNote(Exception):
    """Not a note, or not signed by the key."""


class BadKey(Exception):
    """Of another kind, or no key at all."""


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    made_at: datetime
    since: datetime
    heads: list[Head]


@dataclass(frozen=True, slots=True)
class Notes:
    """What the notes of a period say: how far each chain ever came, from when on, and when they were made."""

    furthest: Mapping[str, Head]
    reaches_back_to: datetime | None
    made: list[datetime]  # from the last one before the period on; the period's begin where that one is of days before

    @property
    def last(self) -> datetime | None:
        return self.made[-1] if self.made else None

    def heads(self, *, since: datetime, until: datetime) -> list[Head]:
        """Those whose event is in the period."""
        asked = [head for head in self.furthest.values() if head.occurred_at and since <= head.occurred_at < until]
        return sorted(asked, key=lambda head: head.chain_id)


class HeadsStore(Protocol):
    """Where notes are kept. Raises: Unavailable."""

    def names(self, day: datetime) -> list[str]:
        """Of the notes of this UTC day, the oldest first."""

    def first(self) -> str | None:
        """The name of the oldest note of all."""

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None:
        """Adds one; never over another."""


def take_note(tables: Tables, *, now: datetime, before: Note | None) -> tuple[Note, list[Head]]:
    """The note of now, and the chains that were longer in the one `before`: somebody removed their last events."""
    since = now - REACHES_BACK
    found: dict[str, Head] = {}
    for row in tables.ask(HEADS, since=since):
        head = row["head"]
        found[row["chain_id"]] = Head(
            row["chain_id"],
            row["function_name"] or "unknown",
            head["seq"],
            head["stated"],
            closed=head["event_type"] == "chain.closed",
            occurred_at=head["occurred_at"],
        )
    shorter = []
    for noted in before.heads if before else ():
        if noted.occurred_at is None or noted.occurred_at < since:
            continue
        now_there = found.get(noted.chain_id)
        if now_there is None or now_there.seq < noted.seq:
            shorter.append(noted)
            found[noted.chain_id] = noted
    return Note(made_at=now, since=since, heads=sorted(found.values(), key=lambda head: head.chain_id)), shorter


def notes_of(store: HeadsStore, keys: PublicKeys, *, since: datetime, until: datetime) -> Notes:
    """What is noted of the chains that have an event in the period.

    Raises: BadNote for a note that none of the keys signed; Unavailable.
    """
    furthest: dict[str, Head] = {}
    reaches_back_to: datetime | None = None
    made: list[datetime] = []
    day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    while day <= until + timedelta(days=1):
        names = store.names(day)
        if names:
            made += map(_made_at, names)
            note = _read(store, names[-1], keys)
            reaches_back_to = reaches_back_to or note.since
            for head in note.heads:
                known = furthest.get(head.chain_id)
                if known is None or known.seq < head.seq:
                    furthest[head.chain_id] = head
        day += timedelta(days=1)
    before = [moment for moment in made if moment <= since]
    first = store.first() if made and not before else None
    if first is not None and _made_at(first) <= since:
        before = [since]
    return Notes(furthest, reaches_back_to, before[-1:] + [moment for moment in made if moment > since])


def not_noted(notes: Notes, heads: Sequence[Head], *, until: datetime, longest_pause: timedelta) -> Iterator[Finding]:
    """What the notes cannot vouch for: pauses longer than that one, the last until the period's end, and events that none of
    them has, though some were made long after. `heads` are those of the chains as they are now.
    """
    if notes.last is None or notes.reaches_back_to is None:
        yield Finding(Kind.NOT_NOTED, None, None, None, None, "there is no note of this period")
        return
    for before, after in pairwise([*notes.made, until]):
        if before < until and after - before > longest_pause:
            detail = f"no note was made until {after.astimezone(UTC):%Y-%m-%d %H:%M}"
            yield Finding(Kind.NOT_NOTED, None, None, None, before, detail)
    older = 0
    for head in heads:
        known = notes.furthest.get(head.chain_id)
        more = head.seq - (known.seq if known else 0)
        if more <= 0 or head.occurred_at is None or head.occurred_at > notes.last - longest_pause:
            continue
        if head.occurred_at < notes.reaches_back_to:
            older += 1
            continue
        detail = f"no note has its last {more} events: they came a day late, or somebody wrote them later"
        yield Finding(Kind.NOT_NOTED, head.chain_id, head.seq, None, head.occurred_at, detail)
    if older:
        detail = f"no note goes back to {older} chains of before: ask for what came later"
        yield Finding(Kind.NOT_NOTED, None, None, None, notes.reaches_back_to, detail)


def verify_beside(
    tables: Tables,
    notes: Notes | None,
    *,
    since: datetime,
    until: datetime,
    now: datetime,
    longest_pause: timedelta,
    noted: Sequence[Head] = (),
) -> tuple[Verdict, list[Head]]:
    """As `verify`, with these notes held against the record beside the heads that are `noted` elsewhere; and the chains that ended
    without closing. Raises: as `AuditTables.ask`.
    """
    known = [*noted, *(notes.heads(since=since, until=until) if notes else ())]
    verdict = verify(tables, since=since, until=until, noted=known)
    if notes:
        verdict.findings += not_noted(notes, verdict.heads, until=min(until, now), longest_pause=longest_pause)
    return verdict, verdict.ended_without_close(now=now, noted=known)


def last_note(store: HeadsStore, keys: PublicKeys, *, now: datetime) -> Note | None:
    """Raises: BadNote; Unavailable."""
    for days in (0, 1):
        names = store.names(now - timedelta(days=days))
        if names:
            return _read(store, names[-1], keys)
    return None


def _read(store: HeadsStore, name: str, keys: PublicKeys) -> Note:
    """Only by its own name: an older note that somebody adds under a later one would hide all that came since. Raises: BadNote;
    Unavailable.
    """
    note = decode(store.read(name), keys)
    if name != name_of(note):
        raise BadNote(f"{name} was not made at that instant")
    return note


def name_of(note: Note) -> str:
    return note.made_at.astimezone(UTC).strftime(_NAME)


def _made_at(name: str) -> datetime:
    """Raises: BadNote."""
    try:
        return datetime.strptime(name, _NAME).replace(tzinfo=UTC)
    except ValueError as error:
        raise BadNote(f"{name} is no name of a note") from error


def encode(note: Note, sign: Sign) -> bytes:
    document = {
        "made_at": note.made_at,
        "since": note.since,
        "heads": [asdict(head) for head in note.heads],
    }
    signing_input = f"{_text(orjson.dumps({'alg': 'ES256', 'typ': TYP}))}.{_text(orjson.dumps(document))}"
    return f"{signing_input}.{_text(sign(signing_input.encode()))}".encode()


def decode(data: bytes, keys: PublicKeys) -> Note:
    """Raises: BadNote."""
    try:
        header, payload, signature = data.decode("ascii").split(".")
        if orjson.loads(_bytes(header)) != {"alg": "ES256", "typ": TYP}:
            raise BadNote("it is no note of heads")
        raw = _bytes(signature)
        if len(raw) != 64:
            raise BadNote("its signature is not of ES256")
        der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
        if not any(_signed(key, der, f"{header}.{payload}".encode()) for key in keys):
            raise BadNote("its signature is not of the key")
        return Note.model_validate_json(_bytes(payload))
    except (ValueError, ValidationError) as error:
        raise BadNote("it is no note of heads") from error


def _signed(key: EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data, ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- keys ---


def heads_keys(names: str) -> list[HeadsKey]:
    """The keys that a list of names stands for, separated by commas: the first signs, notes of each are believed."""
    return [HeadsKey(name.strip()) for name in names.split(",")]


class HeadsKey:
    """An EC P-256 key: a PEM file, or a key version of Cloud KMS by its full name, whose private half nobody ever has."""

    def __init__(self, name: str, session: Callable[[], Any] | None = None) -> None:
        self._name = name
        self._session = session or authorized_session
        self._is_kms = name.startswith("projects/")

    def public(self) -> EllipticCurvePublicKey:
        """Raises: BadKey when it is no such key; Unavailable."""
        if self._is_kms:
            pem = _answer(self._session().get(f"{_KMS}{self._name}/publicKey", timeout=_TIMEOUT_S))["pem"].encode()
            key: Any = serialization.load_pem_public_key(pem)
        else:
            pem = Path(self._name).read_bytes()
            try:
                key = (
                    serialization.load_pem_private_key(pem, None).public_key()
                    if b"PRIVATE" in pem
                    else serialization.load_pem_public_key(pem)
                )
            except (ValueError, TypeError) as error:  # the latter where it wants a password
                raise BadKey("the file holds no key in PEM, or one that wants a password") from error
        if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise BadKey("it is not on P-256")
        return key

    def sign(self, data: bytes) -> bytes:
        """Raises: BadKey when the file holds no private key; Unavailable."""
        if self._is_kms:
            body = {"digest": {"sha256": base64.b64encode(hashlib.sha256(data).digest()).decode()}}
            answer = self._session().post(f"{_KMS}{self._name}:asymmetricSign", json=body, timeout=_TIMEOUT_S)
            der = base64.b64decode(_answer(answer)["signature"])
        else:
            try:
                key = serialization.load_pem_private_key(Path(self._name).read_bytes(), None)
            except (ValueError, TypeError) as error:
                raise BadKey("the file holds no private key") from error
            if not isinstance(key, EllipticCurvePrivateKey):
                raise BadKey("it is not on P-256")
            der = key.sign(data, ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return r.to_bytes(32) + s.to_bytes(32)


# --- places ---


class FolderHeads:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self, day: datetime) -> list[str]:
        found = self._folder.glob(f"heads/{day.astimezone(UTC):%Y-%m-%d}/*.jws")
        return sorted(str(path.relative_to(self._folder)) for path in found)

    def first(self) -> str | None:
        found = self._folder.glob("heads/*/*.jws")
        return min((str(path.relative_to(self._folder)) for path in found), default=None)

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)


class BucketHeads:
    """A bucket of Cloud Storage. Its retention lock is what keeps notes; writing needs objectCreator alone."""

    def __init__(self, bucket: str, session: Callable[[], Any] | None = None) -> None:
        self._bucket = bucket
        self._session = session or authorized_session

    def names(self, day: datetime) -> list[str]:
        return list(self._listed(f"heads/{day.astimezone(UTC):%Y-%m-%d}/"))

    def first(self) -> str | None:
        return next(self._listed("heads/", maxResults="1"), None)

    def _listed(self, prefix: str, **more: str) -> Iterator[str]:
        """In the order of the names, as Cloud Storage lists them, page by page."""
        parameters = {"prefix": prefix, "fields": "items/name,nextPageToken"} | more
        while True:
            url = f"{_STORAGE}storage/v1/b/{self._bucket}/o"
            answer = _answer(_asked(lambda: self._session().get(url, params=parameters, timeout=_TIMEOUT_S)))  # noqa: B023
            yield from (item["name"] for item in answer.get("items", ()))
            if "nextPageToken" not in answer:
                return
            parameters = parameters | {"pageToken": answer["nextPageToken"]}

    def read(self, name: str) -> bytes:
        url = f"{_STORAGE}storage/v1/b/{self._bucket}/o/{quote(name, safe='')}?alt=media"
        answer = _asked(lambda: self._session().get(url, timeout=_TIMEOUT_S))
        if answer.status_code != 200:
            raise Unavailable("noted heads")
        content: bytes = answer.content
        return content

    def write(self, name: str, data: bytes) -> None:
        url = f"{_STORAGE}upload/storage/v1/b/{self._bucket}/o"
        parameters = {"uploadType": "media", "name": name, "ifGenerationMatch": "0"}
        _answer(_asked(lambda: self._session().post(url, params=parameters, data=data, timeout=_TIMEOUT_S)))


def store_at(place: str) -> HeadsStore:
    """`gs://BUCKET` or a folder."""
    return (
        BucketHeads(place.removeprefix("gs://").rstrip("/")) if place.startswith("gs://") else FolderHeads(Path(place))
    )


def authorized_session() -> Any:
    """Application default credentials. Raises: Unavailable without any."""
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except GoogleAuthError as error:
        raise Unavailable("noted heads") from error
    return AuthorizedSession(credentials)


def _asked(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (GoogleAuthError, RequestException) as error:
        raise Unavailable("noted heads") from error


def _answer(response: Any) -> Any:
    if response.status_code != 200:
        raise Unavailable("noted heads")
    return response.json()


def told_shorter(heads: Iterable[Head]) -> list[str]:
    return [
        f"chain {plain(head.chain_id)} of {plain(head.function)} had {head.seq} events when it was noted, and has fewer now"
        for head in heads
    ]

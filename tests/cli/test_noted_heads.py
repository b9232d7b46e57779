"""Signed heads: what somebody who may write the table removed is found by a note that they cannot write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.contracts.audit_story import Story
from tests.contracts.bigquery import Record, replace_rows

from cab.adapters.google_cloud.bigquery.audit_schema import TABLE
from cab.domain.audit import EventType, Outcome
from cab_ops.audit.heads import BadNote, FolderHeads, HeadsKey, Note, Notes, encode, name_of, not_noted, notes_of
from cab_ops.audit.verification import Head
from cab_ops.cli import main

Rows = list[dict[str, Any]]
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def write(record: Record) -> Iterator[Callable[[Rows], str]]:
    """From now on the table holds these rows and no others; says in which dataset."""
    with record.of([]) as tables:

        def written(rows: Rows) -> str:
            replace_rows(tables, f"{Record.PROJECT}.{Record.DATASET}.{TABLE}", rows)
            return Record.DATASET

        yield written


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Two chains that ended in order."""
    story = Story()
    for _ in range(4):
        story.exchange(Outcome.ISSUED)
        story.tell(EventType.KEY_ROTATED, by="b")
    for by in ("a", "b"):
        story.tell(EventType.CHAIN_CLOSED, by=by)
    return story.rows


def key_file(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(as_pem(ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()))
    return path


def as_pem(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class Desk:
    """Where notes are kept, and with which key they are signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = str(key_file(folder, "heads.pem"))

    def run(self, *arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(main, ["audit", *arguments])
        assert result.exit_code == status, result.output
        return result

    def note(self, dataset: str, *, status: int = 0) -> Result:
        arguments = ("note-heads", "--dataset", dataset, "--to", str(self.folder), "--key", self.key)
        return self.run(*arguments, status=status)

    def verify(self, dataset: str, *more: str, status: int = 1) -> Result:
        arguments = ("verify-chain", "--dataset", dataset, "--heads", str(self.folder), "--heads-key", self.key)
        return self.run(*arguments, *more, status=status)

    def findings(self, dataset: str) -> list[tuple[str, str | None, int | None]]:
        found = json.loads(self.verify(dataset, "--json").stdout)["findings"]
        return sorted((item["kind"], item["chain_id"], item["seq"]) for item in found)

    def notes(self, *made: datetime) -> Notes:
        """What is noted of the hours around NOON, after notes without any chain at these instants."""
        key, store = HeadsKey(self.key), FolderHeads(self.folder)
        for at in made:
            note = Note(made_at=at, since=at - timedelta(hours=26), heads=[])
            store.write(name_of(note), encode(note, key.sign))
        return notes_of(store, [key.public()], since=NOON, until=NOON + timedelta(hours=3))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def of(rows: Rows, chain: str, *, up_to: int = 99) -> Rows:
    return [row for row in rows if row["chain"]["id"] == chain and row["chain"]["seq"] <= up_to]


def test_a_whole_record_stands_beside_its_noted_heads(desk: Desk, write: Callable[[Rows], str], rows: Rows) -> None:
    dataset = write(rows)
    assert "noted 2 chains as heads/" in desk.note(dataset).stdout
    told = desk.verify(dataset, status=0).stdout
    assert "nothing missing or changed" in told
    assert "held against the signed heads" in told


def test_a_removed_row_tail_chain_and_day_are_found_and_named(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    desk.note(write(rows))
    one_row = [row for row in rows if (row["chain"]["id"], row["chain"]["seq"]) != ("chain-a", 2)]
    assert desk.findings(write(one_row)) == [("missing", "chain-a", 3)]
    tail = of(rows, "chain-a", up_to=3) + of(rows, "chain-b")
    assert desk.findings(write(tail)) == [("head_changed", "chain-a", 5)]
    assert desk.findings(write(of(rows, "chain-b"))) == [("chain_removed", "chain-a", 5)]
    assert desk.findings(write([])) == [
        ("chain_removed", "chain-a", 5),
        ("chain_removed", "chain-b", 5),
        ("day_removed", None, None),
    ]
    assert "all 2 chains that were noted, 10 events, are gone" in " ".join(desk.verify(write([])).stdout.split())


def test_what_was_removed_between_two_notes_is_told_by_the_second_and_kept_in_it(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    desk.note(write(rows))
    shorter = write(of(rows, "chain-a", up_to=3) + of(rows, "chain-b"))
    told = desk.note(shorter, status=1)
    assert "chain chain-a of a had 5 events when it was noted, and has fewer now" in told.stderr
    assert desk.findings(shorter) == [("head_changed", "chain-a", 5)]


def test_a_chain_that_went_on_or_began_since_is_no_finding(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    story = Story(start=datetime.now(UTC) - timedelta(minutes=5))
    for by in "aaaab":
        story.tell(EventType.KEY_ROTATED, by=by)
    desk.note(write(of(story.rows, "chain-a", up_to=2)))
    desk.verify(write(story.rows), status=0)


def test_events_that_no_note_has_though_one_was_made_long_after_are_named(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    desk.note(write(of(rows, "chain-a", up_to=2)))
    assert desk.findings(write(rows)) == [("not_noted", "chain-a", 5), ("not_noted", "chain-b", 5)]


def test_a_record_beside_which_nobody_noted_anything_is_not_called_whole(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    told = desk.verify(write(rows)).stdout
    assert "there is no note of this period" in told
    assert "not held against signed heads" in told


@pytest.mark.parametrize(
    ("made", "paused_at"),
    [
        ((0, 0.9, 1.8, 2.7), []),
        ((0, 1.1, 2, 3), [0]),
        ((0, 1), [1]),
        ((0, 1, 2, 26.5), [2]),
        ((-20, -0.5, 0.4, 1.3, 2.2), []),
        ((-100, 0.4, 1.3, 2.2), []),
        ((-100, 1.3, 2.2), [0]),
        ((1.3, 2.2), []),
        ((0.5, 1, 2, 3, 30), []),
        ((-3,), [-3]),
    ],
)
def test_a_pause_between_notes_and_an_old_last_one_are_findings_within_the_period(
    desk: Desk, made: tuple[float, ...], paused_at: list[float]
) -> None:
    notes = desk.notes(*(NOON + timedelta(hours=hours) for hours in made))
    found = not_noted(notes, [], until=NOON + timedelta(hours=3), longest_pause=timedelta(hours=1))
    assert [(item.kind, item.occurred_at) for item in found] == [
        ("not_noted", NOON + timedelta(hours=hours)) for hours in paused_at
    ]


def test_chains_of_before_the_first_note_are_counted_in_one_finding(desk: Desk) -> None:
    notes = desk.notes(NOON)
    ended = [NOON - timedelta(hours=hours) for hours in (60, 50, 20, 0.5)]
    heads = [Head(f"c{number}", "f", 1, "00", closed=True, occurred_at=at) for number, at in enumerate(ended)]
    found = list(not_noted(notes, heads, until=NOON, longest_pause=timedelta(hours=1)))
    assert [(item.chain_id, item.detail.partition(":")[0]) for item in found] == [
        ("c2", "no note has its last 1 events"),
        (None, "no note goes back to 2 chains of before"),
    ]


def test_a_file_that_is_no_note_beside_the_notes_is_named(desk: Desk) -> None:
    desk.notes(NOON)
    (desk.folder / "heads" / "2026-11-21" / "00-notes.jws").write_bytes(b"")
    with pytest.raises(BadNote, match=r"00-notes\.jws is no name of a note"):
        desk.notes()


def test_without_noted_heads_a_removed_tail_is_counted_and_a_removed_chain_is_said_not_to_be_known(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    tail = write(of(rows, "chain-a", up_to=3) + of(rows, "chain-b"))
    told = desk.run("verify-chain", "--dataset", tail).stdout
    assert "1 chain is open, of which 1 ended without closing" in told
    assert "ended_without_close" in told
    assert "not held against signed heads" in told


def test_a_note_of_another_key_is_not_believed_nor_one_that_was_changed(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    dataset = write(rows)
    desk.note(dataset)
    true_key, desk.key = desk.key, str(key_file(desk.folder, "other.pem"))
    assert "is not to be believed: its signature is not of the key" in desk.verify(dataset).stderr
    desk.key = true_key
    (note,) = desk.folder.glob("heads/*/*.jws")
    note.write_bytes(note.read_bytes().replace(b"A", b"B", 1))
    assert "is not to be believed" in desk.verify(dataset).stderr


def test_an_older_note_that_was_added_under_a_later_name_is_not_believed(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    desk.note(write(of(rows, "chain-a", up_to=2)))
    (older,) = desk.folder.glob("heads/*/*.jws")
    desk.note(write(rows))
    older.with_name("23-59-59.999999Z.jws").write_bytes(older.read_bytes())
    tail = write(of(rows, "chain-a", up_to=3) + of(rows, "chain-b"))
    assert "was not made at that instant" in desk.verify(tail).stderr
    assert "was not made at that instant" in desk.note(tail, status=1).stderr


def test_a_note_is_never_written_over(desk: Desk) -> None:
    place = FolderHeads(desk.folder)
    place.write("heads/2026-11-21/a.jws", b"one")
    with pytest.raises(FileExistsError):
        place.write("heads/2026-11-21/a.jws", b"two")


class Answer:
    def __init__(self, status_code: int, document: Any = None, content: bytes = b"") -> None:
        self.status_code, self._document, self.content = status_code, document, content

    def json(self) -> Any:
        return self._document


class Cloud:
    """Cloud Storage and Cloud KMS as far as they are asked, over their published JSON interfaces."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._key = ec.generate_private_key(ec.SECP256R1())

    def get(self, url: str, params: dict[str, str] | None = None, timeout: float = 0) -> Answer:
        if url.endswith("/publicKey"):
            pem = self._key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return Answer(200, {"pem": pem.decode()})
        if url.endswith("/o"):
            names = sorted(name for name in self.objects if params and name.startswith(params["prefix"]))
            start = int((params or {}).get("pageToken", 0))
            more = {"nextPageToken": str(start + 1)} if start + 1 < len(names) else {}
            return Answer(200, {"items": [{"name": name} for name in names[start : start + 1]]} | more)
        name = url.rpartition("/o/")[2].removesuffix("?alt=media").replace("%2F", "/")
        return Answer(200, content=self.objects[name]) if name in self.objects else Answer(404)

    def post(self, url: str, params: Any = None, json: Any = None, data: bytes = b"", timeout: float = 0) -> Answer:
        from base64 import b64decode, b64encode

        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

        if url.endswith(":asymmetricSign"):
            digest = b64decode(json["digest"]["sha256"])
            signature = self._key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
            return Answer(200, {"signature": b64encode(signature).decode()})
        if params["name"] in self.objects and params["ifGenerationMatch"] == "0":
            return Answer(412)
        self.objects[params["name"]] = data
        return Answer(200, {})


def test_the_key_is_rotated_and_notes_of_the_one_before_are_still_believed(
    desk: Desk, write: Callable[[Rows], str], rows: Rows
) -> None:
    dataset, older = write(of(rows, "chain-a", up_to=3) + of(rows, "chain-b")), desk.key
    desk.note(dataset)
    newer = key_file(desk.folder, "newer.pem")
    only_newer = ("--dataset", dataset, "--to", str(desk.folder), "--key", str(newer))
    assert "not of the key" in desk.run("note-heads", *only_newer, status=1).output
    desk.key = f"{newer},{older}"
    desk.note(write(rows))
    desk.key = str(newer)
    assert "nothing missing or changed" in desk.verify(write(rows), status=0).stdout
    desk.key = str(older)
    assert "not of the key" in desk.verify(write(rows)).output


@pytest.mark.parametrize(
    ("curve", "encryption", "said"),
    [
        (None, None, "no key in PEM"),
        (ec.SECP256R1(), serialization.BestAvailableEncryption(b"pass"), "one that wants a password"),
        (ec.SECP384R1(), serialization.NoEncryption(), "not on P-256"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_that_cannot_be_one_is_named_as_the_mistake(
    desk: Desk, write: Callable[[Rows], str], rows: Rows, curve: Any, encryption: Any, said: str
) -> None:
    pem = b"none" if curve is None else as_pem(ec.generate_private_key(curve), encryption)
    Path(desk.key).write_bytes(pem)
    dataset = write(rows)
    for found, option in ((desk.note(dataset, status=2), "--key"), (desk.verify(dataset, status=2), "--heads-key")):
        assert f"{option}: " in found.stderr
        assert said in found.stderr


def test_in_the_cloud_notes_are_signed_by_kms_and_kept_in_a_bucket(
    desk: Desk, write: Callable[[Rows], str], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud()
    monkeypatch.setattr("cab_ops.audit.heads.authorized_session", lambda: cloud)
    version = "projects/p/locations/europe/keyRings/r/cryptoKeys/heads/cryptoKeyVersions/1"
    where = ("--to", "gs://notes", "--key", version)
    dataset = write(rows)
    desk.run("note-heads", "--dataset", dataset, *where)
    desk.run("note-heads", "--dataset", dataset, *where)
    assert len(cloud.objects) == 2
    against = ("--heads", "gs://notes", "--heads-key", version)
    desk.run("verify-chain", "--dataset", dataset, *against)
    told = desk.run("verify-chain", "--dataset", write(of(rows, "chain-b")), *against, status=1).stdout
    assert "chain_removed" in told

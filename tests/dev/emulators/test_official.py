"""Finding and starting Google's emulators, without starting them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gcp_emulators.official import NotInstalled, OfficialService, find_jar, find_java, official_emulator
from gcp_emulators.testing import official_is_required

FIRESTORE_JAR = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
PUBSUB_JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-0.8.20-all.jar"


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a Cloud SDK, both emulators and Java, as far as files go."""
    root = tmp_path / "google-cloud-sdk"
    for name in ("bin/gcloud", FIRESTORE_JAR, PUBSUB_JAR, "java/bin/java"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    linked = tmp_path / "bin"
    linked.mkdir()
    (linked / "gcloud").symlink_to(root / "bin/gcloud")
    monkeypatch.setenv("PATH", f"{linked}{os.pathsep}{root}/java/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return root


def test_the_jars_are_found_beside_the_linked_gcloud(sdk: Path) -> None:
    assert find_jar("firestore") == sdk / FIRESTORE_JAR
    assert find_jar("pubsub") == sdk / PUBSUB_JAR


def test_the_newest_pubsub_jar_is_taken(sdk: Path) -> None:
    newer = sdk / PUBSUB_JAR.replace("0.8.20", "0.8.21")
    newer.write_text("")
    assert find_jar("pubsub") == newer


def test_java_home_goes_before_the_path(sdk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    shutil.copy(sdk / "java/bin/java", home / "bin/java")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert find_java() == str(home / "bin/java")


@pytest.mark.parametrize("service", ["firestore", "pubsub"])
def test_a_missing_emulator_is_one_sentence_with_the_remedy(sdk: Path, service: OfficialService) -> None:
    shutil.rmtree(sdk / "platform")
    with pytest.raises(NotInstalled, match="gcloud components install cloud-firestore-emulator pubsub-emulator"):
        official_emulator(service, 8385, cache=sdk)


def test_a_missing_sdk_is_one_sentence_with_the_remedy(sdk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{sdk}/java/bin")
    with pytest.raises(NotInstalled, match="need the Cloud SDK"):
        official_emulator("firestore", 8385, cache=sdk)


def test_missing_java_is_one_sentence_with_the_remedy(sdk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(sdk / "bin"))
    with pytest.raises(NotInstalled, match="need Java"):
        official_emulator("pubsub", 8386, cache=sdk)


def test_the_first_run_writes_the_archive_and_the_next_uses_it(sdk: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = official_emulator("firestore", 8385, cache=cache)
    assert first.fresh_archive is not None
    assert f"-XX:ArchiveClassesAtExit={first.fresh_archive}" in first.command
    first.fresh_archive.write_bytes(b"classes")
    first.fresh_archive.with_name(f"{first.archive.stem}-1-1.jsa.part").write_bytes(b"left by a crash")
    first.keep_archive(143)
    second = official_emulator("firestore", 8385, cache=cache)
    assert f"-XX:SharedArchiveFile={first.archive}" in second.command
    assert second.fresh_archive is None
    assert list(cache.iterdir()) == [first.archive]
    assert first.archive.read_bytes() == b"classes"


def test_an_archive_of_a_run_that_was_cut_short_is_thrown_away(sdk: Path, tmp_path: Path) -> None:
    killed = official_emulator("pubsub", 8386, cache=tmp_path)
    assert killed.fresh_archive is not None
    killed.fresh_archive.write_bytes(b"half of the cla")
    killed.keep_archive(-9)
    assert not killed.archive.exists()
    assert not killed.fresh_archive.exists()


def test_a_changed_jar_gets_an_archive_of_its_own(sdk: Path, tmp_path: Path) -> None:
    before = official_emulator("pubsub", 8386, cache=tmp_path).archive
    (sdk / PUBSUB_JAR).write_text("a new release")
    assert official_emulator("pubsub", 8386, cache=tmp_path).archive != before


def test_the_emulators_listen_on_loopback_only(sdk: Path, tmp_path: Path) -> None:
    for service in ("firestore", "pubsub"):
        emulator = official_emulator(service, 8385, cache=tmp_path)
        assert emulator.command[-2:] == ("--host=127.0.0.1", "--port=8385")
        assert emulator.ready_url.startswith("http://127.0.0.1:8385/v1/")


def test_the_official_emulators_are_required_in_ci_and_where_told() -> None:
    assert official_is_required({"CI": "true"})
    assert official_is_required({"CAB_REQUIRE_OFFICIAL": "1"})
    assert not official_is_required({})

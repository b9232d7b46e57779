"""Changes one place of a critical module at a time and runs the tests that hold the module: each change must fail one.

    python -m tests.mutants [--modules PART ...] [--each N | --all] [--seed N]

Each module gives `--each` changes, drawn by `--seed`; `--all` tries every change there is, for hours. Ends with the changes
that no test noticed and the share that was, of each module and of all; less than 90 % of all is a failure. A change that means the same as before cannot be
noticed: `mutations.py` leaves out what is so by its kind, the rest is read by a person.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.modules import TESTS_OF
from tests.mutants.mutations import Mutation, mutations

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("shared", "functions", "examples", "tests", "terraform", "docs", "benchmarks")
LEAST = 0.9


@dataclass(frozen=True)
class Outcome:
    module: str
    mutation: Mutation
    killed: bool


class Workplace:
    """A copy of the checkout, in which a module may be wrong for a while."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            if (ROOT / name).exists():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("screenshots", ".terraform"))
        for file in ROOT.iterdir():
            if file.is_file():
                shutil.copy(file, folder)

    def run(self, module: str, text: str, *, within_s: float) -> bool:
        """Whether the tests of the module pass with this text in its place."""
        path = self.folder / "shared" / "cab" / module
        before = path.read_text("utf-8")
        try:
            self._write(path, text)
            return self._tests_pass(TESTS_OF[module], within_s)
        finally:
            self._write(path, before)

    def _write(self, path: Path, text: str) -> None:
        """Python takes bytecode for current when size and second are the same, so it goes."""
        path.write_text(text, "utf-8")
        Path(cache_from_source(str(path))).unlink(missing_ok=True)

    def _tests_pass(self, tests: Sequence[str], within_s: float) -> bool:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPATH"] = os.pathsep.join((str(self.folder / "shared"), str(self.folder)))
        try:
            return (
                subprocess.run(
                    command, cwd=self.folder, env=environment, capture_output=True, timeout=within_s, check=False
                ).returncode
                == 0
            )
        except subprocess.TimeoutExpired:
            return False


class Workplaces:
    def __init__(self, folder: Path, number: int) -> None:
        self._free: SimpleQueue[Workplace] = SimpleQueue()
        for each in range(number):
            self._free.put(Workplace(folder / str(each)))

    def run(self, module: str, text: str, *, within_s: float) -> bool:
        place = self._free.get()
        try:
            return place.run(module, text, within_s=within_s)
        finally:
            self._free.put(place)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def source(module: str) -> str:
    return (ROOT / "shared" / "cab" / module).read_text("utf-8")


def drawn(module: str, each: int | None, seed: int) -> Iterator[Mutation]:
    found = list(mutations(source(module)))
    if each is not None and each < len(found):
        found = random.Random(f"{seed} {module}").sample(found, each)  # noqa: S311 - nothing secret
    yield from sorted(found, key=lambda mutation: mutation.line)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--modules", nargs="+", default=[""], help="only modules whose path contains one of these")
    parser.add_argument("--each", type=int, default=8)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    modules = [module for module in TESTS_OF if any(part in module for part in options.modules)]
    if not modules:
        parser.error("no critical module is called so; tests/mutants/modules.py lists them")

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.processes) as pool:
        places = Workplaces(Path(folder), options.processes)
        limits: dict[str, float] = {}

        def healthy(module: str) -> None:
            begun = time.monotonic()
            if not places.run(module, source(module), within_s=600):
                sys.exit(f"The tests of {module} fail without any change.")
            limits[module] = 20 + 4 * (time.monotonic() - begun)

        def judge(work: tuple[str, Mutation]) -> Outcome:
            module, mutation = work
            outcome = Outcome(module, mutation, not places.run(module, mutation.text, within_s=limits[module]))
            mark = "killed" if outcome.killed else "LIVES "
            tell(f"{mark} {module}:{mutation.line} {mutation.what}")
            return outcome

        list(pool.map(healthy, modules))
        work = [
            (module, one)
            for module in modules
            for one in drawn(module, None if options.all else options.each, options.seed)
        ]
        outcomes = list(pool.map(judge, work))

    alive = [outcome for outcome in outcomes if not outcome.killed]
    for outcome in alive:
        tell(f"nobody noticed: {outcome.module}:{outcome.mutation.line} {outcome.mutation.what}")
    for module in modules:
        noticed = [outcome.killed for outcome in outcomes if outcome.module == module]
        tell(f"{sum(noticed):3} of {len(noticed):3}  {module}")
    share = 1 - len(alive) / len(outcomes)
    tell(f"{len(outcomes) - len(alive)} of {len(outcomes)} changes were noticed ({share:.0%})")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())

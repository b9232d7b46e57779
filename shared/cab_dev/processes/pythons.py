"""Other Pythons of this machine: `python -m cab_dev.processes.pythons 3.13` prints where one is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_PRINT_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def find(version: str) -> str | None:
    """An interpreter of this version, such as "3.13": this one, one on the PATH, or one of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    managed = sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
    candidates = [sys.executable, shutil.which(f"python{version}"), *map(str, managed)]
    return next((found for found in candidates if found and _is_of(version, found)), None)


def _is_of(version: str, python: str) -> bool:
    # A shim of pyenv exists for versions that are not selected; it says so only when run.
    asked = subprocess.run([python, "-c", _PRINT_VERSION], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and asked.stdout.strip() == version


def main(version: str) -> int:
    found = find(version)
    if found is None:
        print(
            f"There is no Python {version} here: install it, so that `python{version}` is on the PATH.", file=sys.stderr
        )
        return 1
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

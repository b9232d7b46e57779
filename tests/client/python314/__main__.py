"""The client's threaded half under CPython 3.14, where no 3.14 is installed: as WebAssembly in Node, from one npm package.

    python -m tests.client.python314

Warnings are errors. Signatures are a stand-in (`site/`), since `cryptography` has no build there. There are no threads and no
event loop that could be waited for: what needs one of them is skipped, and counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.running_stack import ROOT

PYODIDE = "pyodide@314.0.7"
HERE = Path(__file__).parent
FOLDER = ROOT / ".cab" / "python314"
TESTS = ("test_tools.py", "test_resource.py", "test_one_suite_on_both_brokers.py", "python314/test_annotations.py")
# A hundred thousand brackets, which end WebAssembly's stack; the running stack; coroutines; and proofs, by a stand-in's key.
WITHOUT = "106 or stack or asyncio_does or asyncio_makes or asynchronous or proof_of_its_key"


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "node_modules" / "pyodide").exists():
        command = ["npm", "install", "--prefix", str(FOLDER), "--no-audit", "--no-fund", "--ignore-scripts", PYODIDE]
        subprocess.run(command, check=True)
    options = ["-q", "-p", "no:cacheprovider", "-p", "cab_client.pytest_plugin", "-c", "/dev/null", "--rootdir=/repo"]
    options += [
        "--noconftest",
        "-W",
        "error",
        "-W",
        "ignore::pytest.PytestUnknownMarkWarning",
        "-k",
        f"not ({WITHOUT})",
    ]
    told = {
        "mounts": {"/repo": str(ROOT), "/standing_in": str(HERE / "site"), "/installed": sysconfig.get_path("purelib")},
        "arguments": [*options, *(f"tests/client/{name}" for name in TESTS)],
        "modules": sorted(path.stem for path in (ROOT / "shared" / "cab_client").glob("*.py")),
    }
    module = FOLDER / "run.mjs"  # beside what it imports
    module.write_text((HERE / "run.mjs").read_text("utf-8"), "utf-8")
    return subprocess.run(["node", str(module), json.dumps(told)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

"""What the peers need, into `.cab/peers`: oidc-provider from npm, with the Node that it asks for; ZITADEL's library, built with Go."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.processes import ROOT

SOURCE = Path(__file__).parent
FOLDER = ROOT / ".cab" / "peers"
_INSTALLED_WITHIN_S = 180
NODE = FOLDER / "node_modules" / ".bin" / "node"
ZITADEL_PROGRAM = FOLDER / "zitadel"


class NotInstallable(Exception):
    """What is missing, in a sentence."""


def install() -> Path:
    """The folder with the packages of the lock, installed the first time and when the lock has changed."""
    if shutil.which("npm") is None:
        raise NotInstallable("oidc-provider needs npm. On Debian and Ubuntu: apt-get install npm")
    FOLDER.mkdir(parents=True, exist_ok=True)
    lock = (SOURCE / "package-lock.json").read_bytes()
    stamp = FOLDER / ".installed"
    if not stamp.exists() or stamp.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / name, FOLDER)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        try:
            subprocess.run(command, cwd=FOLDER, capture_output=True, timeout=_INSTALLED_WITHIN_S, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
            raise NotInstallable("npm could not install oidc-provider: it needs the network, once.") from exc
        if not NODE.exists():  # the package brings its program in a script that some npm do not run
            raise NotInstallable("npm did not bring Node 22.")
        stamp.write_bytes(lock)
    shutil.copy(SOURCE / "oidc_provider.mjs", FOLDER)
    return FOLDER


def build_zitadel() -> Path:
    """The program. Go looks itself whether anything of it has changed."""
    if shutil.which("go") is None:
        raise NotInstallable("ZITADEL's library needs Go 1.26 or later.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = ["go", "build", "-mod=readonly", "-buildvcs=false", "-o", str(ZITADEL_PROGRAM), "."]
    try:
        subprocess.run(command, cwd=SOURCE / "zitadel", capture_output=True, timeout=_INSTALLED_WITHIN_S, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        raise NotInstallable("Go could not build ZITADEL's library: it needs Go 1.26 and, once, the network.") from exc
    return ZITADEL_PROGRAM

"""The stack's configuration folder with changes, as the next deployment brings it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.running_stack import Stack

from cab_dev.stack_file import read_environment


def folder_of(stack: Stack) -> Path:
    return Path(read_environment(stack.state_dir)["CAB_CONFIG_DIR"])


def changed_organisation(stack: Stack, folder: Path, changes: Mapping[str, Mapping[str, str]]) -> Path:
    """A copy in `folder` where, in each file, the first of each text is replaced by another."""
    shutil.copytree(folder_of(stack), folder)
    for name, replacements in changes.items():
        path = folder / name
        text = path.read_text("utf-8")
        for old, new in replacements.items():
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new, 1)
        path.write_text(text, "utf-8")
    return folder

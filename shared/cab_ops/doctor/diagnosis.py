"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

from cab_ops.check_connection import Holds


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`says` is what was seen, `remedy` what to do about it, one sentence each. Neither holds a secret or a token."""

    check: str
    holds: Holds
    says: str
    remedy: str = ""


def well(check: str, says: str) -> Diagnosis:
    return Diagnosis(check, Holds.YES, says)


def ill(check: str, says: str, remedy: str) -> Diagnosis:
    return Diagnosis(check, Holds.NO, says, remedy)


def unknown(check: str, says: str, remedy: str = "") -> Diagnosis:
    return Diagnosis(check, Holds.UNKNOWN, says, remedy)

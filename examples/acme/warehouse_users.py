"""Provision the warehouse's users: which subject of a CAB token is which warehouse user.

CAB's tokens carry an opaque `sub`, the same in every system. Whoever runs a resource that trusts them is given the keys
of its users once, as with any directory export; the resource itself never learns how they are made.
"""

from cab.domain.identifiers import subject_key
from examples.acme.people import PEOPLE

TENANT = "acme"


def warehouse_users(idp_issuer: str) -> dict[str, str]:
    """Warehouse user by `sub`, and by e-mail address for deployments that map that claim instead."""
    by_subject = {subject_key(TENANT, idp_issuer, person.subject): person.login for person in PEOPLE.values()}
    return by_subject | {person.email: person.login for person in PEOPLE.values()}

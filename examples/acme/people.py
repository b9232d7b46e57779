"""The people of Acme and what each system calls them. No passwords: whoever sits at the demo may be any of them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AcmePerson:
    """`subject` is the identity provider's opaque name for the person; each system has an account id of its own."""

    login: str
    name: str
    groups: tuple[str, ...]
    subject: str
    crm_account: str
    tracker_account: str

    @property
    def email(self) -> str:
        return f"{self.login}@acme.example"


PEOPLE: dict[str, AcmePerson] = {
    person.login: person
    for person in (
        AcmePerson(
            login="alice",
            name="Alice Moreau",
            groups=("sales",),
            subject="8f2c61b07a5e",
            crm_account="crm-40017",
            tracker_account="trk-a91",
        ),
        AcmePerson(
            login="bob",
            name="Bob Okafor",
            groups=("sales",),
            subject="31d9e4c86b02",
            crm_account="crm-40018",
            tracker_account="trk-b27",
        ),
        AcmePerson(
            login="carol",
            name="Carol Lindqvist",
            groups=("ops",),
            subject="c7705ab1f9d4",
            crm_account="crm-40019",
            tracker_account="trk-c53",
        ),
    )
}

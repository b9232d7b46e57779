"""What is known of a user's groups. What an identity provider does not say is unknown, never none."""

from __future__ import annotations

from enum import StrEnum


class GroupsUnknown(StrEnum):
    """Why nothing is known of a user's groups. Policy then permits nothing by group, and forbids what any group would."""

    LEFT_OUT = "left_out"  # the identity provider said that there are too many to list
    MISSING = "missing"  # the configured claim was not there
    UNREADABLE = "unreadable"  # the claim was there in a form that cannot be a list of groups

    @property
    def sentence(self) -> str:
        """For people, after "nothing is known of the user's groups:"."""
        return _SENTENCES[self]


_SENTENCES = {
    GroupsUnknown.LEFT_OUT: "the identity provider left them out because there are too many",
    GroupsUnknown.MISSING: "the identity provider did not send the configured claim",
    GroupsUnknown.UNREADABLE: "the identity provider sent the configured claim in a form that is no list of groups",
}

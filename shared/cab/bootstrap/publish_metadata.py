"""Builds publish_metadata: discovery documents and public keys."""

from __future__ import annotations

from cab.bootstrap.shared import Handler, Parts
from cab.settings import (
    PublishMetadataSettings,
)
from cab.stores.signing_keys import SigningKeys
from cab.transport.metadata_http import MetadataEndpoints


def publish_metadata(settings: PublishMetadataSettings) -> Handler:

    parts = Parts(settings, "publish_metadata")
    endpoints = MetadataEndpoints(parts.deployment, SigningKeys(parts.documents("keys")), parts.clock, parts.randomness)
    return parts.handler(endpoints.handle)

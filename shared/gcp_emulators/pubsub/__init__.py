"""Pub/Sub, embedded: `PubSubService` says what it does and what it does not."""

from __future__ import annotations

from gcp_emulators.pubsub.service import PubSubService

__all__ = ["PubSubService"]

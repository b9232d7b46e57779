"""Firestore, embedded: `FirestoreService` says what it does and what it does not."""

from __future__ import annotations

from gcp_emulators.firestore.service import FirestoreService

__all__ = ["FirestoreService"]

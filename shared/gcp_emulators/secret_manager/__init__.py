"""Secret Manager, embedded: `SecretManagerService` says what it does and what it does not."""

from __future__ import annotations

from gcp_emulators.secret_manager.service import SecretManagerService

__all__ = ["SecretManagerService"]

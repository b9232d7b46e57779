"""exchange_token as it would start with Google's own clients: the same function, and their three packages imported."""

import functions_framework.aio
from google.cloud import firestore, pubsub_v1, secretmanager  # type: ignore[attr-defined] # noqa: F401

from cab import settings
from cab.bootstrap import exchange_token as build

exchange_token = functions_framework.aio.http(build.exchange_token(settings.load(settings.ExchangeTokenSettings)))

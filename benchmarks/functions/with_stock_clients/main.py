"""exchange_token as it would start with Google's own clients: the same function, and their three packages imported."""

import functions_framework.aio
from google.cloud import firestore, pubsub_v1, secretmanager  # noqa: F401

from cab import bootstrap, settings

exchange_token = functions_framework.aio.http(bootstrap.exchange_token(settings.load(settings.ExchangeTokenSettings)))

"""Discovery documents and public keys, Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import settings
from cab.bootstrap import publish_metadata as build

publish_metadata = functions_framework.aio.http(build.publish_metadata(settings.load(settings.PublishMetadataSettings)))

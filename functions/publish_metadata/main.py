"""Discovery documents and public keys, Cloud Run function. Wiring only: the rules are in cab.use_cases."""

import functions_framework.aio

from cab import bootstrap, settings

publish_metadata = functions_framework.aio.http(
    bootstrap.publish_metadata(settings.load(settings.PublishMetadataSettings))
)

"""What others push: `audit` is the subscription to our own events, `signals` the endpoint of RFC 8935 for identity providers."""

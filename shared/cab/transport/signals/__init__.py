"""Events that identity providers push: `push` is the endpoint of RFC 8935."""

"""Keys: our own, those of IdPs and clients, and secrets that are read again and again."""

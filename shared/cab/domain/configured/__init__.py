"""What a deployment configures: the action catalog, connections and providers, clients, and the whole of it."""

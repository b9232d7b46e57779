"""Programs of the local stack that stand for parts of Google Cloud, each in a process of its own."""

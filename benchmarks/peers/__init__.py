"""`make bench-peers`: the broker's hot exchange beside other people's token exchange, each warm, in turn, in one run."""

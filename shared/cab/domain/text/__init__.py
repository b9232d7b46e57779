"""Text as a risk: what may be shown, what looks like a token, which patterns cover what."""

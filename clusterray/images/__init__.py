"""All that touches pixels."""

"""The render daemon of one machine."""

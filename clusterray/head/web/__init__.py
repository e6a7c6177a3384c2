"""The head's HTTP pages."""

"""The server process: threads around one Farm."""

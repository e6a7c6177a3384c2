"""What a person runs: pack, submit, follow, fetch, and the one-machine farm."""

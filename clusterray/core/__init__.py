"""The pure heart: words, states, cutting, the farm. No socket, thread, clock, disk, subprocess."""

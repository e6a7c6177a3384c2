"""All that knows POV-Ray, and nothing of networks."""

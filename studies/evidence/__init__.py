"""The evidence for the weights: measured by one command, kept as JSON, and made into pages that nobody types."""

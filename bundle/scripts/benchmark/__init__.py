"""Speed of networks and workflows on this machine: what `bioatt benchmark` does."""

"""What a user starts: the command line and what its commands do. Nothing imports it."""

"""What an experiment is, and what a person runs."""

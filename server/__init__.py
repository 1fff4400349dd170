"""What runs on the server: the round loop, evaluation and the record of a run."""

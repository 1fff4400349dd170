"""The folder of a run, its checkpoints and its curves."""

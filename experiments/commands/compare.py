"""``fedmetanas compare``: run variants of an experiment side by side."""

import argparse

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.comparison.variants import choose, read_variants
from fedmetanas.experiments.entry import importing
from fedmetanas.experiments.settings import load


def main(options: argparse.Namespace) -> int:
    """Run variants of an experiment over seeds."""
    variants = choose(
        options.strategies.split(","), read_variants(options.variants), "--strategies"
    )
    seeds = _seeds(options.seeds)
    if options.reference is not None:
        choose([options.reference], {variant.name: variant for variant in variants}, "--reference")
    if any(override.startswith("seed=") for override in options.overrides):
        raise SettingsError("seed: compare takes --seeds 0,1,2 instead")
    name = load(options.experiment, options.overrides).name

    with importing():
        from fedmetanas.experiments.comparison.compare import compare
        from fedmetanas.experiments.files import expanded

    out = expanded(options.out or f"results/{name}-comparison")
    try:
        return compare(
            options.experiment,
            options.overrides,
            variants,
            seeds,
            options.reference or "fednas",
            options.engine,
            out,
        )
    except OSError as error:  # of its folder
        raise SettingsError(f"--out: cannot write to {out}: {error.strerror}") from None


def _seeds(text: str) -> list[int]:
    """Read whole numbers, each once."""
    words = text.split(",")
    if not all(word.isdecimal() and len(word) < 16 for word in words):
        raise SettingsError(f"--seeds: expected whole numbers such as 0,1,2; found {text!r}")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"--seeds: a seed stands twice in {text!r}")
    return seeds

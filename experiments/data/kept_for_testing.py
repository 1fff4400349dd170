"""Which images are kept for testing, where the files do not say so."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SEED = 0  # the test images are the same whatever the seed of a run


def keep_for_testing(classes: Sequence[str], share: float) -> npt.NDArray[np.bool_]:
    """Draw a share of each class.

    What is drawn of a class depends on its name and number of images alone: not on other classes,
    the seed of a run, or the machine.

    Parameters
    ----------
    classes : sequence of str
        For every image the name of its class.
    share : float
        Greater than 0 and less than 1. Of a class of several images at least one is kept and one
        is left; of a class of one image it is left.

    Returns
    -------
    np.ndarray
        Whether each image is kept for testing.
    """
    names = np.asarray(classes)
    kept = np.zeros(len(names), dtype=np.bool_)
    for name in set(classes):
        (places,) = np.nonzero(names == name)
        count = min(max(round(share * len(places)), 1), len(places) - 1)
        generator = np.random.default_rng([SEED, *name.encode(errors="surrogateescape")])
        kept[generator.permutation(places)[:count]] = True
    return kept

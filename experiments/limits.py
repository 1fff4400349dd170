"""What no memory could hold is refused before anything is computed."""

from fedmetanas.errors import SettingsError
from fedmetanas.search_space.genotype import MOST_WEIGHTS
from fedmetanas.search_space.supernet import Network

from .settings import Settings

FITTING_SIDE = 64  # pixels of a photo; larger ones take hours
MOST_VALUES = 5_000_000_000  # at 10 bytes each; a step at DARTS' size, 64 images, has 0.8 billion


def refuse_enormous(supernet: Network, settings: Settings, side: tuple[int, int]) -> None:
    """Raise if the supernet, or a step of training or of evaluating it, would fill any memory.

    Parameters
    ----------
    supernet : Network
        Of the experiment.
    settings : Settings
        For the sizes of batches and steps.
    side : tuple of int
        Height and width of an image, in pixels.

    Raises
    ------
    SettingsError
        With the settings to lower.
    """
    weights = sum(parameter.numel() for parameter in supernet.parameters())
    if weights > MOST_WEIGHTS:
        raise SettingsError(
            f"search.channels: the supernet would have {weights:,} weights; expected at most "
            f"{MOST_WEIGHTS:,}"
        )
    client, search = settings.client, settings.search
    an_image = side[0] * side[1] * search.channels * search.candidates
    # Gradients of gradients: all steps are kept, each twice as large.
    through = client.second_order and client.inner_steps > 0
    steps = 2 * (client.inner_steps + 1) if through else 1
    lower = "client.batch_size, client.inner_steps" if through else "client.batch_size"
    trained = steps * (client.batch_size * an_image + weights)
    evaluated = settings.evaluation.batch_size * an_image // search.layers  # no cell is kept
    for keys, values in ((lower, trained), ("evaluation.batch_size", evaluated)):
        if values > MOST_VALUES:
            _refuse_large_images(settings, side, values)
            raise SettingsError(
                f"{keys}: a step of the supernet would keep some {values:,} numbers; expected at "
                f"most {MOST_VALUES:,}; lower {keys}, the sizes in search or that of the images"
            )


def _refuse_large_images(settings: Settings, side: tuple[int, int], values: int) -> None:
    """Raise if a step that keeps so many values would be possible with photos made smaller."""
    height, width = side
    small = FITTING_SIDE**2 / (height * width)
    if settings.data.dataset == "imagefolder" and small < 1 and values * small <= MOST_VALUES:
        raise SettingsError(
            f"data.image_size: images of {width}x{height} pixels are too large: a step of the "
            f"supernet would keep some {values:,} numbers; expected at most {MOST_VALUES:,}; set "
            f"data.image_size={FITTING_SIDE} or less"
        )

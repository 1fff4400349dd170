"""What runs the two apps: Flower's simulation with Ray's virtual clients, or this one process."""

from collections.abc import Callable

from fedmetanas.experiments.settings import Settings

from .apps import RunConfig
from .inline import run_inline
from .ray import run_ray

ENGINES: dict[str, Callable[[Settings, RunConfig], None]] = {"ray": run_ray, "inline": run_inline}

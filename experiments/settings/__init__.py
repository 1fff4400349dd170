"""Everything an experiment can be told: one frozen, checked object built in one place.

Precedence: command line over run config over YAML over the defaults. A key that is unknown or a
value that is impossible raises :class:`fedmetanas.errors.SettingsError` with one line that names
the key, what is allowed and, for a misspelt key, the nearest right one.

Reading settings imports neither PyTorch nor Flower nor NumPy.
"""

from .checking import known_sections, known_settings, unknown_setting
from .data import DataSettings
from .declarations import (
    DEVICES,
    NAME,
    CheckpointSettings,
    ClientSettings,
    EngineSettings,
    EvaluationSettings,
    SearchSettings,
    Settings,
    StrategySettings,
)
from .reading import FOLDER, check_overrides, experiments, from_run_config, from_yaml, load
from .rules import nearest
from .yaml_text import MAX_YAML_BYTES, read_text, read_yaml, write_yaml

__all__ = [
    "DEVICES",
    "FOLDER",
    "MAX_YAML_BYTES",
    "NAME",
    "CheckpointSettings",
    "ClientSettings",
    "DataSettings",
    "EngineSettings",
    "EvaluationSettings",
    "SearchSettings",
    "Settings",
    "StrategySettings",
    "check_overrides",
    "experiments",
    "from_run_config",
    "from_yaml",
    "known_sections",
    "known_settings",
    "load",
    "nearest",
    "read_text",
    "read_yaml",
    "unknown_setting",
    "write_yaml",
]

"""What can go wrong by somebody's doing, and what ends a run.

Every floor of the house raises these, so they stand below all of them. Whatever else is raised is
a fault of this project, and keeps its traceback.
"""


class UserError(ValueError):
    """Something that a person can set right. The message is the one line to show."""


class SettingsError(UserError):
    """A setting is unknown, of the wrong type or impossible."""


class DataError(UserError):
    """Data are missing, broken or impossible to use as asked."""

    def __init__(self, message: str) -> None:
        super().__init__(r"\n".join(message.splitlines()))  # names of files may have line breaks


class GenotypeError(UserError):
    """A text is not a genotype."""


class StrategyError(UserError):
    """A strategy cannot be found, made or served."""


class CheckpointError(UserError):
    """A checkpoint is damaged, or the only ones there are."""


class RunError(RuntimeError):
    """A run cannot go on; its checkpoints are kept. The message is one line."""

    exit_code = 1


class UnwritableError(RunError):
    """A file of the run cannot be written; when there is room again, the run can go on."""

    exit_code = 2


#: Whose message is shown in place of a traceback; the exit code is 2.
USER_ERRORS = (UserError, UnwritableError)

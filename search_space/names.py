"""Names and limits of the search space that settings need, free of PyTorch."""

#: The seven operations of DARTS, in the order of the rows of alphas.
DEFAULT_OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

#: All operations there are; :func:`fedmetanas.search_space.operations.register` adds to them.
OPERATION_NAMES = [*DEFAULT_OPERATIONS, "none"]

#: The ways from alphas to coefficients; see :func:`fedmetanas.search_space.relaxation.relax`.
RELAXATIONS = ("softmax", "softmax-pairs", "gumbel", "gumbel-hard")

#: Bounds of what a file may ask for: a damaged or foreign one must not exhaust the memory.
LARGEST = {"in_channels": 1024, "classes": 100_000, "channels": 1024, "layers": 200}

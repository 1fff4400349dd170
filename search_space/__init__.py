"""The search space: operations, relaxation, supernet, pruning, genotype. Plain PyTorch."""

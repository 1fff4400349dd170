"""One thread, as in every process of a run: two beside a busy neighbour wait for each other."""

import torch

torch.set_num_threads(1)

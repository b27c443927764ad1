"""One thread for each operation: small tensors gain nothing from more, and lose much beside other work."""

import torch

torch.set_num_threads(1)

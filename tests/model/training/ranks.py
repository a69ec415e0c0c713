"""What each process of a test with several does: the runs of the files that it is given, one after the other.

Many in one process, because importing takes longer than training a toy.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from zoetrope.model.training.finetune import FineTuneConfig, build

if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        config = FineTuneConfig.read(Path(path))
        build(config, torch.device("cpu")).run(config.save_every)
    torch.distributed.destroy_process_group()

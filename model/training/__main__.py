"""Fine-tune a checkpoint: ``python -m zoetrope.model.training RUN.json``; the same command resumes a stopped run.

``RUN.json`` is a `model.training.finetune.FineTuneConfig`::

    {"checkpoint": "wan2.7-27b", "dataset": "clips", "out": "runs/first", "steps": 2000, "batch": 8, "zero_stage": 2}

On several GPUs with either launcher, a ``zero_stage`` of 1, 2 or 3 and ``pip install '.[train]'``::

    torchrun --nproc-per-node 8 -m zoetrope.model.training RUN.json
    deepspeed --module zoetrope.model.training RUN.json

Progress is a line of JSON every 25 steps. The result, ``OUT/checkpoint``, can be served like any other.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.training.errors import TrainingError
from zoetrope.model.training.finetune import FineTuneConfig, build


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, or 2 after one line about a fault in the input."""
    parser = argparse.ArgumentParser(prog="python -m zoetrope.model.training", description=__doc__.split(":")[0] + ".")
    parser.add_argument("config", type=Path, metavar="RUN.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    parser.add_argument("--local_rank", type=int, default=local_rank, help=argparse.SUPPRESS)  # deepspeed passes it
    args = parser.parse_args(arguments)
    try:
        device = torch.device(args.device)
        if device.type == "cuda":
            device = torch.device("cuda", args.local_rank)
            torch.cuda.set_device(device)
        quantize = os.environ.get("ZOETROPE_QUANTIZE") or "none"
        if quantize != "none":
            raise TrainingError(f"ZOETROPE_QUANTIZE is {quantize!r}: it must be none, training needs exact weights")
        config = FineTuneConfig.read(args.config)
        trainer = build(config, device)
        if trainer.step and trainer.stepper.rank == 0:
            print(f"resumed at step {trainer.step}", file=sys.stderr, flush=True)
        trainer.run(config.save_every)
    except (TrainingError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())

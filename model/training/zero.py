"""Take optimiser steps and save states in several processes with DeepSpeed ZeRO (Rajbhandari et al., 1910.02054).

Stage 1 shards the optimiser's state over the ranks, stage 2 also the gradients, stage 3 also the weights. Weights,
gradients and states are float32; on a GPU autocast computes products in bfloat16.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from zoetrope.model.training.errors import TrainingError

STATE_DIRECTORY = "state"
STATE_INDEX = "state.json"  # written last: names the folder of the valid state


def check_zero(stage: int, ranks: int, optimiser: str, ema: float, batch: int) -> None:
    """Check that the settings of a run are compatible, before anything is loaded.

    Raises:
        TrainingError: names the field and a value that would work.
    """
    if stage == 0 and ranks > 1:
        raise TrainingError(f"zero_stage: is 0, which is one process, and there are {ranks}; choose 1, 2 or 3")
    if batch % ranks:
        raise TrainingError(f"batch: {batch} clips cannot be split evenly over {ranks} processes")
    if stage == 0:
        return
    if optimiser == "muon":
        raise TrainingError(
            f"optimiser: muon needs whole matrices and zero_stage {stage} shards them; use adamw, or zero_stage 0"
        )
    if stage == 3 and ema:
        raise TrainingError(f"ema: is {ema:g}, but under zero_stage 3 no rank has the whole weights; use 0, or stage 2")
    if importlib.util.find_spec("deepspeed") is None:
        raise TrainingError(f"zero_stage: {stage} needs the package deepspeed: pip install '.[train]'")


def join(device: torch.device) -> None:
    """Join the other ranks by the variables that torchrun and deepspeed's launcher set; without them run alone."""
    deepspeed = _import()
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if os.environ["WORLD_SIZE"] == "1":
        os.environ.setdefault("MASTER_PORT", "0")
    if device.type == "cpu":
        # Otherwise it compiles a shared-memory reduction first, which takes minutes; gloo does not need it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False)


class ZeroStepper:
    """See `model.training.trainer.Stepper`. `join` comes first."""

    def __init__(self, net: nn.Module, optimiser: torch.optim.Optimizer, clip: float, stage: int, batch: int) -> None:
        """``batch``: clips per step over all ranks."""
        self.net = net
        self.stage = stage
        self.rank, self.ranks = distributed.get_rank(), distributed.get_world_size()
        self._heights = [group["lr"] for group in optimiser.param_groups]
        self._engine = _import().initialize(
            model=net,
            optimizer=optimiser,
            config={
                "train_micro_batch_size_per_gpu": batch // self.ranks,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": clip,
                "zero_optimization": {"stage": stage},
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 2**62,
            },
        )[0]

    def step(self, batch: Any, rate: float) -> float:
        loss: torch.Tensor = self._engine(batch)
        for group, height in zip(self._engine.optimizer.param_groups, self._heights, strict=True):
            group["lr"] = height * rate
        self._engine.backward(loss)
        self._engine.step()
        mean = loss.detach().float().clone()
        distributed.all_reduce(mean)
        return float(mean) / self.ranks

    def weights(self) -> dict[str, torch.Tensor]:
        if self.stage < 3:
            return self.net.state_dict()
        whole = {name: buffer.detach().cpu() for name, buffer in self.net.named_buffers()}
        for name, parameter in self.net.named_parameters():
            with _import().zero.GatheredParameters([parameter]):
                if self.rank == 0:
                    whole[name] = parameter.detach().cpu().clone()
        return whole

    def save(self, out: Path, extra: dict[str, Any]) -> None:
        folder = out / STATE_DIRECTORY
        tag = f"step-{extra['counters'][0]}"
        self._engine.save_checkpoint(str(folder), tag=tag, client_state={"extra": extra}, save_latest=False)
        distributed.barrier()
        if self.rank == 0:
            partial = out / (STATE_INDEX + ".partial")
            partial.write_text(json.dumps({"tag": tag, "zero_stage": self.stage, "ranks": self.ranks}) + "\n")
            partial.replace(out / STATE_INDEX)
            for old in folder.iterdir():
                if old.name != tag:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
        distributed.barrier()

    def resume(self, out: Path) -> dict[str, Any] | None:
        tag = saved_tag(out, self.stage, self.ranks)
        if tag is None:
            return None
        loaded, client = self._engine.load_checkpoint(str(out / STATE_DIRECTORY), tag=tag)
        if loaded is None:
            raise TrainingError(f"{out / STATE_DIRECTORY / tag}: this run cannot resume from it")
        extra: dict[str, Any] = client["extra"]
        return extra


def saved_tag(out: Path, stage: int, ranks: int) -> str | None:
    """Return the folder of the state that a run in ``out`` has saved; None if there is none.

    Raises:
        TrainingError: it was saved with another stage or number of ranks.
    """
    path = out / STATE_INDEX
    if not path.exists():
        return None
    try:
        index = json.loads(path.read_text())
        saved = {field: int(index[field]) for field in ("zero_stage", "ranks")}
        tag = str(index["tag"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from None
    for field, here in (("zero_stage", stage), ("ranks", ranks)):
        if saved[field] != here:
            raise TrainingError(f"{path}: was saved with {field} {saved[field]}, this run has {here}")
    return tag


def _import() -> Any:
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")  # it would mix with the progress on standard output
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed

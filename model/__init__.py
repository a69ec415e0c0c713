"""The model: requests, families, transformers, denoising, autoencoders, text encoders, checkpoints, training."""

from zoetrope.model.runtime.threads import wait_passively

wait_passively()  # here, because whatever loads torch for a model imports this first

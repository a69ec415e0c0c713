"""What one denoising step is: tasks, sequences, the transformer, sampling, autoencoder, text, checkpoints."""

from model.threads import wait_passively

wait_passively()  # here, because whatever loads torch for a model comes by here first

"""What one denoising step is: tasks, sequences, the transformer, sampling, autoencoder, text, checkpoints."""

"""Load and write checkpoints: diffusers' layout and Wan's own, upcycled experts, random weights."""

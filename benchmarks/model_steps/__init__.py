"""Measure one model in one process: a clip's steps by part, and against diffusers' own pipeline."""

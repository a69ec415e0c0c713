"""Encode and decode: autoencoders, text encoders, image encoders."""

"""The container image: how it is built, and a way to build and try it without Docker."""

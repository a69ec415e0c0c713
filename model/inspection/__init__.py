"""Inspect a checkpoint's files by their headers before anything is loaded. Needs no torch."""

"""Snapshots of segments: their format, where they are kept, when and how they are written."""

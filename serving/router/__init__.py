"""Decides what runs where and when: policy in pure Python, one Serve deployment around it."""

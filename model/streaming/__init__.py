"""Weights that do not fit on the device: blocks wait in host memory and arrive one after the other."""

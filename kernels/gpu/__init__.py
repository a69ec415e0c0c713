"""The Triton and Gluon kernels. Imported only when a call needs one: a machine without Triton runs the rest."""

"""The Triton and Gluon kernels. Imported only when a call needs one, so that the rest works without Triton."""

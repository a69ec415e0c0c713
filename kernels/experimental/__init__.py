"""Kernels that no setting of a model reaches yet; they are tested and compiled like the others.

Grouped GEMM on float8 operands, and the pass that quantises its rows. Missing: weights of experts quantised when a
model is loaded, and an operation in `kernels.ops` that takes them.
"""

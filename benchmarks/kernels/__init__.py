"""Kernels on a GPU: first whether they are right, then how fast they are beside their peers, in one run.

    python -m benchmarks.kernels                              everything, on the GPU that is there
    python -m benchmarks.kernels --only attention             a part, merged into the results of the others
    python -m benchmarks.kernels --correctness-only           proofs of trust alone
    python -m benchmarks.kernels --tune                       try tile sizes, write kernels/data/tiles-<device>.json
    python -m benchmarks.kernels --tiny --device cpu          the machinery at toy sizes; no figure of a GPU

Results go to ``benchmarks/results/kernels/<device>.json`` with a table (.md) and a plot (.png) beside it.
"""

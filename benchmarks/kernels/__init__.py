"""Benchmark GPU kernels: check that they are correct, then compare their speed with peers, in one run.

    python -m zoetrope.benchmarks.kernels                     everything, on the current GPU
    python -m zoetrope.benchmarks.kernels --only attention    one part, merged into the results of the others
    python -m zoetrope.benchmarks.kernels --correctness-only  only correctness
    python -m zoetrope.benchmarks.kernels --tune              try tile sizes, write kernels/data/tiles-<device>.json
    python -m zoetrope.benchmarks.kernels --tiny --device cpu smoke test at toy sizes, without GPU figures

Results go to ``benchmarks/results/kernels/<device>.json``, with a page (.md) and a plot (.png).
"""

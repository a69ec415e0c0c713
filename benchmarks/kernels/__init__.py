"""Benchmark GPU kernels: check that they are correct, then compare their speed with peers, in one run.

    python -m zoetrope.benchmarks.kernels                     everything, on the current GPU
    python -m zoetrope.benchmarks.kernels --only attention    one part, merged into the results of the others
    python -m zoetrope.benchmarks.kernels --only choice       prove all kernels, and time each against what runs instead
    python -m zoetrope.benchmarks.kernels --correctness-only  only correctness
    python -m zoetrope.benchmarks.kernels --tune              try tile sizes, write kernels/data/tiles-<device>.json
    python -m zoetrope.benchmarks.kernels --tiny --device cpu smoke test at toy sizes, without GPU figures

One process for one kernel, in a folder of its own that is merged into the repository afterwards:

    python -m zoetrope.benchmarks.kernels --only attention --kernel attention/gluon --dtype bf16 \\
        --correctness-only --out /tmp/gluon
    python -m zoetrope.benchmarks.kernels.merge /tmp/gluon

Results go to ``benchmarks/results/kernels/<device>.json``, with a page (.md) and a plot (.png). Where there is no git,
name the commit by ZOETROPE_COMMIT. Only torch, triton and numpy are needed; matplotlib draws, diffusers is a peer.
"""

"""A day with a GPU: every proof and figure that needs one, in two commands on a bare machine without a network.

    python -m zoetrope.benchmarks.gpu_day prepare             on a machine with a network: wheels and compiled kernels
    benchmarks/gpu_day.sh --call 1 --out FOLDER               on the GPU machine, under 9 minutes; then --call 2
    python -m zoetrope.benchmarks.gpu_day merge FOLDER/results.tar.gz

Each stage of the plan (`stages`) is a process of its own with a time limit. Its outcome is written when it ends, and
``results.tar.gz`` anew with it, so a run that is killed loses at most the stage it was in; the next run takes up the
rest. ``--dry-run`` enters every stage at toy sizes on a machine without a GPU.
"""

"""The peers that are compared: one file and one line each."""

from __future__ import annotations

from zoetrope.benchmarks.peers.diffusers import DIFFUSERS
from zoetrope.benchmarks.peers.lightx2v import LIGHTX2V
from zoetrope.benchmarks.peers.ours import OURS
from zoetrope.benchmarks.peers.peer import Peer
from zoetrope.benchmarks.peers.sglang import SGLANG
from zoetrope.benchmarks.peers.vllm_omni import VLLM_OMNI
from zoetrope.benchmarks.peers.xdit import XDIT

PEERS: dict[str, Peer] = {
    "ours": OURS,
    "diffusers": DIFFUSERS,
    "sglang": SGLANG,
    "vllm-omni": VLLM_OMNI,
    "xdit": XDIT,
    "lightx2v": LIGHTX2V,
}
REFERENCE = "diffusers"  # whose clip the others are compared with

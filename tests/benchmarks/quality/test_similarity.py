"""How alike clips look, against values by hand; and which ffmpeg is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.quality.similarity import find_ffmpeg, ssim, steadiness, vmaf
from zoetrope.model.nano.cases import Frames


def clip(frames: int = 3, noise: int = 0) -> Frames:
    rng = np.random.default_rng(1)
    plain = rng.integers(0, 256, (frames, 6, 10, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(plain + rng.integers(-noise, noise + 1, plain.shape), 0, 255).astype(np.uint8)


def ssim_by_formula(one: Frames, other: Frames) -> float:
    """Wang et al. 2004: a window of 11 x 11 at every pixel, sigma 1.5, K 0.01 and 0.03; frames are mirrored."""
    at = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(at, at) / at.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    mirrored = [np.pad(z.astype(float), ((0, 0), (5, 5), (5, 5), (0, 0)), mode="reflect") for z in (one, other)]
    for x, y in zip(*mirrored, strict=True):
        for channel in range(3):
            for top in range(x.shape[0] - 10):
                for left in range(x.shape[1] - 10):
                    a, b = (z[top : top + 11, left : left + 11, channel] for z in (x, y))
                    ma, mb = (window * a).sum(), (window * b).sum()
                    va, vb = (window * a * a).sum() - ma**2, (window * b * b).sum() - mb**2
                    both = (window * a * b).sum() - ma * mb
                    found.append((2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(found))


def test_ssim() -> None:
    pytest.importorskip("torchmetrics")
    exact, other = clip(1), clip(1, noise=40)
    assert ssim(exact, exact) == pytest.approx(1, abs=1e-12)
    assert ssim(exact, other) == pytest.approx(ssim_by_formula(exact, other), abs=1e-6)
    assert ssim(exact, other) < 0.99
    plain = np.full((2, 24, 24, 3), 200, np.uint8)
    assert ssim(plain, plain) == pytest.approx(1, abs=1e-9), "no variance at all"


def test_steadiness_is_vbenchs_temporal_flickering() -> None:
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[1] += 10
    frames[2] += 60  # differences of 10 and 50
    assert steadiness(frames) == pytest.approx((255 - 30) / 255)
    assert steadiness(frames[::-1]) == steadiness(frames), "uint8 does not wrap around"
    assert steadiness(frames[:1]) == 1.0


@pytest.mark.integration
def test_an_ffmpeg_without_libvmaf_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchmarkError, match="/absent: cannot be run, or was built without libvmaf"):
        find_ffmpeg("/absent")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr("zoetrope.benchmarks.quality.similarity._packaged", lambda: None)
    with pytest.raises(BenchmarkError, match="no ffmpeg was found"):
        find_ffmpeg()


@pytest.mark.integration
def test_vmaf() -> None:
    pytest.importorskip("imageio_ffmpeg")
    ffmpeg, exact = find_ffmpeg(), clip()
    same, near, far = (vmaf(ffmpeg, exact, other) for other in (exact, clip(noise=6), exact[::-1]))
    assert 97 < same <= 100 and far < near < same and far < 60
    with pytest.raises(BenchmarkError, match="failed at VMAF"):
        vmaf("false", exact, exact)

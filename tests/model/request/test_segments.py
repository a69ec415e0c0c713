"""Long clips are covered by overlapping segments, without a gap and within the limit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.model.request.segments import split
from zoetrope.model.request.specs import SegmentFrames


@given(st.integers(1, 400), st.integers(1, 30), st.integers(0, 29), st.sampled_from([1, 4, 8]))
def test_spans_cover_the_clip_and_overlap(frames: int, longest: int, overlap: int, temporal: int) -> None:
    frames, longest = frames * temporal + 1, longest * temporal + 1
    overlap = min(overlap * temporal + 1, longest - temporal)
    spans = split(frames, longest, overlap, temporal)
    assert spans[0].first == spans[0].known == 0
    assert spans[-1].first + spans[-1].frames == frames
    for before, after in pairwise(spans):
        assert after.known == overlap
        assert after.first + after.known == before.first + before.frames
        assert after.frames > after.known
    assert all(span.frames <= longest and (span.frames - 1) % temporal == 0 for span in spans)
    assert sum(span.frames - span.known for span in spans) == frames


def test_a_clip_that_fits_is_one_span() -> None:
    assert split(17, 17, 5, 4) == (SegmentFrames(0, 17, 0),)
    assert split(21, 17, 5, 4) == (SegmentFrames(0, 17, 0), SegmentFrames(12, 9, 5))


@pytest.mark.parametrize(
    ("numbers", "name"), [((16, 17, 5), "frames"), ((33, 16, 5), "longest"), ((33, 17, 4), "overlap")]
)
def test_other_numbers_are_refused(numbers: tuple[int, int, int], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is .* must be 1 modulo 4"):
        split(*numbers, 4)
    with pytest.raises(ValueError, match="must be below"):
        split(33, 17, 17, 4)

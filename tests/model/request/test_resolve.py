"""Requests against a model's limits: defaults from the model and from the media, every fault named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.model.catalog.profiles import find_profile
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import InvalidRequest, MediaInfo, ModelCard, media_of, parse_request

CARD = ModelCard(
    name="toy",
    directory="",
    tasks=TASK_KINDS,
    native_sizes=((40, 24), (24, 40), (32, 32)),
    size_multiple=4,
    spatial=4,
    temporal=4,
    latent_channels=8,
    fps=8,
    default_frames=16,
    max_frames=120,
    default_steps=4,
    default_guidance=3.0,
    max_text_tokens=32,
    segment_frames=17,
    overlap_frames=5,
    max_references=2,
)
ANY = replace(CARD, native_sizes=(), size_multiple=16)
WIDE, TALL = MediaInfo("image", 1600, 900), MediaInfo("image", 300, 700)
CLIP = MediaInfo("clip", 640, 480, frames=75, fps=25.0, has_audio=True)

TASKS: dict[str, dict[str, Any]] = {
    "text_to_video": {"prompt": "p"},
    "image_to_video": {"image": "a"},
    "first_last_frame": {"first_frame": "a", "last_frame": "b"},
    "grid_to_video": {"panels": ["a"] * 9},
    "reference_to_video": {"prompt": "p", "references": ["a", "b"], "first_frame": "c"},
    "edit_video": {"prompt": "p", "video": "v", "references": ["a"]},
}


def spec_of(kind: str, media: dict[str, MediaInfo] | None = None, card: ModelCard = CARD, **fields: Any) -> VideoSpec:
    task = {"kind": kind, **TASKS[kind], **fields.pop("task", {})}
    return resolve(parse_request({"task": task, **fields}), card, 7, media or {})


def faults(
    kind: str, media: dict[str, MediaInfo] | None = None, card: ModelCard = CARD, **fields: Any
) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refused:
        spec_of(kind, media, card, **fields)
    return {v.field: v.description for v in refused.value.violations}


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_every_kind_resolves_and_survives_json(kind: str) -> None:
    spec = spec_of(kind, duration_seconds=3.0, seed=5)
    assert spec.task.kind == kind
    frames = 25 if kind == "first_last_frame" else 24  # the last picture is the last frame
    assert (spec.frames, spec.model_frames, len(spec.spans)) == (frames, 25, 2)
    assert VideoSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    segments = [segment_of(spec, "x", i) for i in range(2)]
    assert [s.latent_shape for s in segments] == [(8, 5, 6, 10), (8, 4, 6, 10)]
    assert [s.seed for s in segments] == [5, 6], "each segment has noise of its own"
    assert segments[0].kind == kind


def test_media_are_listed_by_the_field_that_names_them() -> None:
    task = parse_request({"task": {"kind": "edit_video", "prompt": "p", "video": "v", "references": ["a", "b"]}}).task
    assert media_of(task) == {"video": "v", "references.0": "a", "references.1": "b"}
    grid = parse_request({"task": {"kind": "grid_to_video", "panels": list("abcdefghi")}}).task
    assert media_of(grid) == {f"panels.{i}": c for i, c in enumerate("abcdefghi")}


@pytest.mark.parametrize(
    ("kind", "media", "size"),
    [
        ("image_to_video", {"image": TALL}, (480, 832)),
        ("image_to_video", {"image": WIDE}, (832, 480)),
        ("first_last_frame", {"first_frame": MediaInfo("image", 500, 500), "last_frame": WIDE}, (624, 624)),
        ("edit_video", {"video": CLIP}, (704, 528)),
        ("reference_to_video", {"references.0": TALL}, (832, 480)),
        ("text_to_video", {}, (832, 480)),
    ],
)
def test_the_ratio_is_that_of_what_the_result_looks_like(
    kind: str, media: dict[str, MediaInfo], size: tuple[int, int]
) -> None:
    spec = spec_of(kind, media)
    assert (spec.width, spec.height) == size
    assert spec_of(kind, media, ratio="1:1").width == 624


def test_an_edit_above_720p_is_made_at_720p_and_scaled() -> None:
    for media, fields, file, native in (
        ({}, {"size": "1080p"}, (1920, 1080), (1280, 720)),
        ({}, {"size": "1080p", "ratio": "3:4"}, (1248, 1632), (832, 1088)),
        ({"video": replace(CLIP, width=500, height=500)}, {"size": "1080p"}, (1440, 1440), (960, 960)),
        ({}, {"size": "1920x816"}, (1920, 816), (1472, 624)),
    ):
        spec = spec_of("edit_video", media, ANY, **fields)
        assert (spec.width, spec.height) == file
        assert (spec.native_width, spec.native_height) == native
        edited = "edited at {}x{}, for clips are edited at 720p at most, and scaled to {}x{}"
        assert spec.warnings == (f"size: {edited.format(*native, *file)}",)
    assert spec_of("edit_video", card=ANY, size="720p").warnings == ()
    assert spec_of("edit_video", size="1080p").warnings == (), "a model with sizes of its own has smaller ones"


def test_a_continued_clip_can_end_with_a_picture() -> None:
    media = {"clip": CLIP, "last_frame": TALL}
    spec = spec_of("image_to_video", media, task={"image": None, "clip": "c", "last_frame": "l"}, frames=24)
    assert (spec.frames, spec.width, spec.height) == (25, 704, 528), "as long as its last picture needs, like the clip"
    assert spec.warnings == ("frames: 25 in place of 24, so that the given picture is the last one",)


def test_an_edit_is_as_long_as_its_source() -> None:
    assert spec_of("edit_video", {"video": CLIP}).frames == 24
    assert spec_of("edit_video", {"video": CLIP}, duration_seconds=2.0).frames == 16
    assert "longer than the clip" in faults("edit_video", {"video": CLIP}, frames=25)["frames"]
    short, long = replace(CLIP, frames=25), replace(CLIP, frames=300)
    assert "lasts 1.00 s" in faults("edit_video", {"video": short})["video"]
    assert "lasts 12.00 s" in faults("edit_video", {"video": long})["video"]


@pytest.mark.parametrize(
    ("kind", "media", "fields", "field", "words"),
    [
        ("image_to_video", {"image": CLIP}, {}, "image", "give a picture"),
        ("edit_video", {"video": WIDE}, {}, "video", "give a clip"),
        ("edit_video", {}, {"task": {"references": ["a", "b", "c"]}}, "references", "at most 2"),
        ("reference_to_video", {}, {"task": {"references": ["a", "b", "c"]}}, "references", "at most 2"),
        ("text_to_video", {}, {"task": {"prompt": " "}}, "prompt", "is empty"),
        ("text_to_video", {}, {"guidance_low": 3.0}, "guidance_low", "no two noise experts"),
        ("text_to_video", {}, {"generate_audio": True}, "generate_audio", "makes no sound"),
        ("edit_video", {}, {"task": {"keep_audio": True}, "audio": "t"}, "audio", "keep_audio"),
        ("text_to_video", {}, {"duration_seconds": 15.1}, "duration_seconds", "at most 15"),
    ],
)
def test_faults_are_named(
    kind: str, media: dict[str, MediaInfo], fields: dict[str, Any], field: str, words: str
) -> None:
    assert words in faults(kind, media, **fields)[field]


def test_a_model_without_the_task_says_which_it_serves() -> None:
    card = replace(CARD, tasks=("text_to_video", "image_to_video"))
    found = faults("edit_video", card=card)
    assert found["task"] == "edit_video is not served by toy, which serves text_to_video, image_to_video"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"kind": "image_to_video"}, "either image or clip"),
        ({"kind": "image_to_video", "image": "a", "clip": "b"}, "either image or clip"),
        ({"kind": "image_to_video", "clip": "b", "loop": True}, "loop needs an image"),
        ({"kind": "image_to_video", "image": "a", "last_frame": "b"}, "last_frame goes with a clip"),
        ({"kind": "grid_to_video", "panels": ["a"] * 8}, "8 entries"),
        ({"kind": "reference_to_video", "prompt": "p", "references": []}, "at least 1"),
        ({"kind": "reference_to_video", "prompt": "p", "references": ["a"] * 6}, "at most 5"),
        ({"kind": "dance"}, "dance"),
    ],
)
def test_a_malformed_task_is_refused(task: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        parse_request({"task": task})
    assert refused.value.violations[0].field.startswith("task")


def test_the_low_noise_expert_has_a_scale_of_its_own() -> None:
    card = replace(CARD, boundary=0.875, default_guidance=4.0, default_guidance_low=3.0)
    assert (spec_of("text_to_video", card=card).guidance, spec_of("text_to_video", card=card).guidance_low) == (4, 3)
    assert spec_of("text_to_video", card=card, guidance=2.0).guidance_low == 2.0
    assert spec_of("text_to_video", card=card, guidance=2.0, guidance_low=1.5).guidance_low == 1.5


def test_the_decoder_tiles_only_what_is_larger_than_720p() -> None:
    assert spec_of("text_to_video", card=ANY, size="1280x720").tiling is None
    spec = spec_of("text_to_video", card=ANY, size="1920x1088")
    assert spec.tiling == (576, 528, 64)
    assert VideoSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@given(st.integers(1, 120))
def test_any_length_is_covered(frames: int) -> None:
    spec = spec_of("text_to_video", frames=frames)
    assert spec.model_frames >= frames
    assert spec.model_frames - frames < CARD.temporal
    assert sum(s.frames - s.known for s in spec.spans) == spec.model_frames


def test_a_model_that_cannot_chain_has_one_segment() -> None:
    card = replace(ANY, overlap_frames=0, segment_frames=81, max_frames=81)
    assert len(spec_of("text_to_video", card=card, frames=81).spans) == 1


@pytest.mark.parametrize(
    ("kind", "media", "size"),
    [
        ("image_to_video", {"image": MediaInfo("image", 1500, 500)}, (1088, 352)),
        ("image_to_video", {"clip": TALL}, (400, 960)),
        ("first_last_frame", {"first_frame": MediaInfo("image", 1920, 1080), "last_frame": TALL}, (832, 464)),
        ("edit_video", {"video": CLIP}, (720, 544)),
        ("grid_to_video", {"panels.0": MediaInfo("image", 500, 500)}, (624, 624)),
        ("text_to_video", {}, (832, 480)),
    ],
)
def test_without_a_size_the_file_is_like_what_it_shows(
    kind: str, media: dict[str, MediaInfo], size: tuple[int, int]
) -> None:
    spec = spec_of(kind, media, ANY, **({} if kind == "edit_video" else {"frames": 17}))
    assert (spec.width, spec.height) == (spec.native_width, spec.native_height) == size
    assert spec.warnings == ()
    named = spec_of(kind, media, ANY, size="480p", ratio="16:9", fit="contain")
    assert (named.width, named.height, named.fit) == (832, 480, "contain")
    assert spec_of(kind, media, ANY, size="640x360").width == 640


def test_the_default_size_is_the_models() -> None:
    card = replace(ANY, size_multiple=32, default_size="720p", trained_sizes=((1280, 704), (704, 1280)))
    spec = spec_of("text_to_video", card=card)
    assert (spec.width, spec.height, spec.native_width, spec.native_height) == (1280, 720, 1280, 704)
    assert spec.warnings == (
        "size: denoised at 1280x704, for toy takes multiples of 32 pixels, and fitted to 1280x720",
    )
    like = spec_of("image_to_video", {"image": MediaInfo("image", 4032, 3024)}, card)
    assert (like.width, like.height) == (1088, 800), "the area that it was trained at"
    assert spec_of("text_to_video", card=card, size="480p").native_height == 480


def test_a_seed_of_minus_one_is_a_random_one() -> None:
    assert spec_of("text_to_video", seed=-1).seed == spec_of("text_to_video").seed == 7
    largest = spec_of("text_to_video", seed=2**63 - 1, frames=33)
    assert [segment_of(largest, "x", i).seed for i in range(2)] == [2**63 - 1, 0]
    limit = "must be from 0 to 9223372036854775807, or -1 for a random seed"
    for seed in (2**63, -2):
        assert faults("text_to_video", seed=seed) == {"seed": f"{seed} {limit}"}


def test_the_negative_prompt_is_the_models_own_where_none_is_named() -> None:
    card = replace(CARD, default_negative_prompt="blurred")
    assert spec_of("text_to_video", card=card).negative_prompt == "blurred"
    assert spec_of("text_to_video", card=card, task={"negative_prompt": ""}).negative_prompt == ""
    assert spec_of("text_to_video", card=card, task={"negative_prompt": "red"}).negative_prompt == "red"
    assert spec_of("text_to_video").negative_prompt == ""


def test_the_flow_shift_is_the_models_own_where_none_is_named() -> None:
    card = replace(CARD, default_flow_shift=3.0)
    assert spec_of("text_to_video", card=card).flow_shift == 3.0
    assert segment_of(spec_of("text_to_video", card=card, flow_shift=12.0), "x").flow_shift == 12.0
    for value in (0.0, 1e-8, -1.0, 100.1, math.nan, math.inf):
        assert "must be from 0.01 to 100" in faults("text_to_video", card=card, flow_shift=value)["flow_shift"]
    assert faults("text_to_video", flow_shift=3.0) == {"flow_shift": "3.0 given, but toy has none"}


@pytest.mark.parametrize("container", ["png", "webp", "jpg"])
def test_one_frame_gives_a_picture(container: str) -> None:
    for kind in ("text_to_video", "image_to_video", "grid_to_video", "reference_to_video", "edit_video"):
        spec = spec_of(kind, {"video": CLIP} if kind == "edit_video" else None, container=container)
        assert (spec.frames, spec.model_frames, spec.latent_shape[1]) == (1, 1, 1)
    assert spec_of("text_to_video", container=container, frames=1).container == container
    found = faults("text_to_video", container=container, duration_seconds=2.0)
    assert found == {"container": f"{container} holds one frame, but 16 are asked for"}
    silent = f"is given, but {container} holds no sound"
    assert faults("text_to_video", container=container, audio="t") == {"audio": silent}
    assert faults("edit_video", container=container, task={"keep_audio": True}) == {"keep_audio": silent}
    assert "give 2 or more" in faults("first_last_frame", container=container)["frames"]


def test_a_clip_without_sound_has_none_to_keep() -> None:
    silent = spec_of("edit_video", {"video": replace(CLIP, has_audio=False)}, task={"keep_audio": True})
    assert silent.audio is None
    assert silent.warnings == ("keep_audio: the clip to edit has no sound, so the result has none",)
    loud = spec_of("edit_video", {"video": CLIP}, task={"keep_audio": True})
    assert (loud.audio, loud.warnings) == ("v", ())
    assert VideoSpec.from_dict(json.loads(json.dumps(silent.to_dict()))) == silent


def test_specs_of_earlier_versions_are_read() -> None:
    spec = spec_of("text_to_video")
    stored = json.loads(json.dumps(spec.to_dict()))
    for field in ("fit", "flow_shift", "warnings"):
        del stored[field]
    assert VideoSpec.from_dict(stored) == spec


def test_a_clip_that_ends_with_a_picture_may_be_longer_and_says_so() -> None:
    spec = spec_of("first_last_frame", duration_seconds=3.0)
    assert (spec.frames, spec.warnings) == (
        25,
        ("frames: 25 in place of 24, so that the given picture is the last one",),
    )
    assert spec_of("first_last_frame", frames=25).warnings == ()
    too_long = faults("first_last_frame", duration_seconds=16.0)
    assert list(too_long) == ["duration_seconds"], "and nothing of a length that nobody asked for"


def test_a_ratio_beside_a_size_in_pixels_is_told() -> None:
    assert spec_of("text_to_video", card=ANY, size="640x480", ratio="1:1").warnings == (
        "ratio: 1:1 is not used beside a size in pixels",
    )
    assert spec_of("text_to_video", card=ANY, size="480p", ratio="1:1").warnings == ()


def test_faults_of_several_fields_are_told_in_words() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"task": {"kind": "grid_to_video", "panels": ["a"] * 4}})
    assert str(refused.value) == "task: panels has 4 entries, give 9 pictures or one sheet of them"


DISTILLED = replace(
    CARD, default_steps=4, default_guidance=1.0, default_flow_shift=5.0, profile=find_profile("lightx2v-4")
)


def test_a_profile_samples_as_it_says() -> None:
    spec = spec_of("text_to_video", card=DISTILLED, task={"negative_prompt": "blur"})
    assert (spec.steps, spec.guidance, spec.guidance_low) == (4, 1.0, None)
    assert spec.profile == DISTILLED.profile and spec.flow_shift is None and spec.sampler is None
    assert spec.warnings == ("negative_prompt: is ignored, since profile lightx2v-4 needs no second branch",)
    again = VideoSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and segment_of(again, "s").profile == DISTILLED.profile


@pytest.mark.parametrize(
    ("field", "given", "locked"),
    [
        ("steps", 8, "8 given, but the profile lightx2v-4 locks it to 4"),
        ("guidance", 5.0, "5.0 given, but the profile lightx2v-4 locks it to 1.0"),
        ("flow_shift", 8.0, "8.0 given, but the profile lightx2v-4 locks it to 5.0"),
        ("sampler", "unipc", "'unipc' given, but the profile lightx2v-4 locks it to 'euler'"),
        ("quality", "fast", "fast cannot be had with the profile lightx2v-4 of toy: give exact"),
        ("guidance_end", 0.5, "0.5 given, but the profile lightx2v-4 locks it to 1.0"),
    ],
)
def test_what_a_profile_locks_is_refused(field: str, given: Any, locked: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        spec_of("text_to_video", card=DISTILLED, **{field: given})
    assert [(v.field, v.description) for v in refused.value.violations] == [(field, locked)]


def test_what_equals_the_profile_is_accepted() -> None:
    given: dict[str, Any] = {"steps": 4, "guidance": 1.0, "flow_shift": 5.0, "sampler": "euler", "quality": "exact"}
    assert spec_of("text_to_video", card=DISTILLED, **given) == spec_of("text_to_video", card=DISTILLED)
    pair = replace(DISTILLED, boundary=0.9, default_guidance_low=1.0, profile=find_profile("lightning-4"))
    assert spec_of("text_to_video", card=pair, guidance_low=1.0).guidance_low == 1.0
    with pytest.raises(InvalidRequest, match=r"guidance_low: 2\.0 given, but the profile lightning-4 locks it to 1\.0"):
        spec_of("text_to_video", card=pair, guidance_low=2.0)


def test_a_profile_may_leave_guidance_to_the_request() -> None:
    profile = find_profile("lightx2v-4")
    free = replace(profile, name="mine", guidance=(3.0,), locked=profile.locked[:-1])
    card = replace(DISTILLED, default_guidance=3.0, profile=free)
    spec = spec_of("text_to_video", card=card, guidance=2.0, task={"negative_prompt": "blur"})
    assert spec.guidance == 2.0 and not spec.warnings
    with pytest.raises(InvalidRequest, match="steps: 5 given"):
        spec_of("text_to_video", card=card, steps=5)


def test_no_other_sampler_without_a_flow_shift_to_keep() -> None:
    with pytest.raises(InvalidRequest, match="sampler: euler given, but the noise levels of toy come from no flow"):
        spec_of("text_to_video", sampler="euler")
    shifting = replace(CARD, default_flow_shift=3.0)
    assert spec_of("text_to_video", card=shifting, sampler="dpm++").sampler == "dpm++"
    assert spec_of("text_to_video", card=shifting, steps=1).steps == 1

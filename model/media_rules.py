"""What the media of a task must be for a model to take them, as far as is known before they are decoded. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from model.tasks import MAX_DURATION_SECONDS, ImageToVideo, MediaInfo, ModelCard, Task, Violation

MAX_REFERENCE_SECONDS = 10.0
MAX_CONTINUED_SECONDS = MAX_DURATION_SECONDS  # of a clip to go on from: whatever we make can be extended
MAX_DECODED_BYTES = 4 << 30  # of a clip's frames; as many are in memory while it is read
SLACK_SECONDS = 0.1  # containers round, and a last frame may last a little longer

# Families by how pictures and clips enter (`model.conditioning`): those that cannot end with a given frame, and those
# to which only pictures can be shown.
OPEN_ENDED = ("first_latent", "bernini")
PICTURES_ONLY = ("vace",)


def media_violations(task: Task, card: ModelCard, media: Mapping[str, MediaInfo], fps: int) -> Iterator[Violation]:
    """What a family's conditioner would refuse, and clips that are too long.

    Args:
        media: what is known of each of the task's media, by the field that names it. fps: of the result.
    """
    if isinstance(task, ImageToVideo) and task.loop and card.conditioner in OPEN_ENDED:
        yield Violation("loop", f"true, but {card.name} cannot end with a given frame")
    for field, info in media.items():
        if info.kind != "clip":
            continue
        stem = field.partition(".")[0]
        if stem == "references" and card.conditioner in PICTURES_ONLY:
            yield Violation(field, f"is a clip of {info.frames} frames, {card.name} takes pictures as references")
            continue
        longest = {"references": MAX_REFERENCE_SECONDS, "clip": MAX_CONTINUED_SECONDS}.get(stem)
        # Our own clips are longer by some frames where their last one was given.
        slack = SLACK_SECONDS + (card.temporal / info.fps if stem == "clip" and info.fps else 0.0)
        if longest is not None and info.seconds > longest + slack:
            yield Violation(field, f"lasts {info.seconds:.2f} s, at most {longest:g} s are allowed")
            continue
        size = round(info.seconds * fps) * info.width * info.height * 3
        if size > MAX_DECODED_BYTES:
            yield Violation(
                field,
                f"lasts {info.seconds:.2f} s at {info.width}x{info.height}: read at {fps} fps that takes {size} bytes, "
                f"at most {MAX_DECODED_BYTES} are allowed",
            )

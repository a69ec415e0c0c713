"""List which steps the levels of quality compute on each preset that has a list of ratios, as a Markdown table.

python -m zoetrope.benchmarks.cached_schedules
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from zoetrope.benchmarks import command
from zoetrope.model.caching.levels import level_of
from zoetrope.model.caching.mask import COMPUTED, high_noise_steps, step_mask
from zoetrope.model.caching.ratios import RatioList, lists_of, published_lists
from zoetrope.model.families import all_presets
from zoetrope.model.families.family import Preset

HEAD = (
    "| model | task | steps | quality | computed | fewer | `#` computed, `.` reused |",
    "|---|---|---|---|---|---|---|",
)


def rows() -> Iterator[str]:
    """Yield a row for each preset, task and level, with the preset's own number of steps and flow shift."""
    for name, preset in all_presets().items():
        lists = published_lists(name) if preset.directory is None else lists_of(preset.directory, name)
        seen: dict[str, list[str]] = {}
        for one in lists:
            for quality in ("balanced", "fast"):
                mask = mask_of(preset, one, quality)
                seen.setdefault(f"{quality} {mask}", []).append(one.kind)
        for found, kinds in seen.items():
            quality, _, mask = found.partition(" ")
            steps, count = len(mask), mask.count(COMPUTED)
            tasks = ", ".join(kind.replace("_", " ") for kind in kinds)
            yield f"| {name} | {tasks} | {steps} | {quality} | {count} | {steps / count:.2f} x | `{mask}` |"


def mask_of(preset: Preset, ratios: RatioList, quality: str) -> str:
    """Return the mask of a preset's default schedule."""
    sampling = preset.sampling
    two = sampling.boundary is not None and preset.transformers == 2
    split = high_noise_steps(sampling.steps, sampling.shift, sampling.boundary or 0.0) if two else None
    level = level_of(quality, two)
    assert level is not None
    return step_mask(ratios.values, sampling.steps, level, split)


def main(arguments: list[str] | None = None) -> int:
    command.parser("cached_schedules", __doc__).parse_args(arguments)
    print("\n".join([*HEAD, *rows()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

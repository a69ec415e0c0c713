"""Broken media files against the sandbox: ``python -m tests.serving.media.fuzz --count 2000``.

Small valid files are flipped, cut, spliced and stretched, by a seed, and examined as uploads are; what passes is
decoded as a job would. Whatever the decoders do, there has to be an answer in time and a sandbox that goes on working.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.serving.media.files import accepted, examine, write_sound
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.sandbox.sandbox import Sandbox

SECONDS = 10.0  # for a file


def flip(data: bytearray, rng: random.Random, other: bytes) -> None:
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random, other: bytes) -> None:
    start = rng.randrange(len(data))
    count = min(rng.randint(1, 200), len(data) - start)
    data[start : start + count] = rng.randbytes(count)


def number(data: bytearray, rng: random.Random, other: bytes) -> None:
    """An odd number where a size or an offset may be, most likely near the beginning."""
    start = min(int(rng.expovariate(1 / 300)), len(data) - 4)
    odd = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, rng.getrandbits(32), 1 << rng.randrange(32))
    value = rng.choice(odd)
    data[start : start + 4] = value.to_bytes(4, rng.choice(("big", "little")))


def cut(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def leave_out(data: bytearray, rng: random.Random, other: bytes) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randint(1, 500)]


def repeat(data: bytearray, rng: random.Random, other: bytes) -> None:
    start = rng.randrange(len(data))
    piece = data[start : start + rng.randint(1, 2_000)]
    data[start:start] = piece * rng.randint(1, 8)


def splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    """On with another file, or a piece of one in between."""
    start, theirs = rng.randrange(len(data)), rng.randrange(len(other))
    if rng.random() < 0.5:
        data[start:] = other[theirs:]
    else:
        data[start:start] = other[theirs : theirs + rng.randint(1, 2_000)]


MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    flip,
    overwrite,
    number,
    cut,
    leave_out,
    repeat,
    splice,
)


def mutated(content: bytes, rng: random.Random, other: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if len(data) >= 4:
            rng.choice(MUTATIONS)(data, rng, other)
    return bytes(data)


def outcome_of(sandbox: Sandbox, path: Path) -> str:
    try:
        examined = examine(sandbox, path)
        kind = examined.info["kind"]
        if kind == "image":
            sandbox.read_picture(path)
        elif kind == "clip":
            sandbox.read_clip(path, fps=8.0, max_seconds=5.0)
        else:
            sandbox.write_sound(path, path.with_suffix(".wav"), 5.0)
    except MediaError as error:
        message = str(error)
        assert "\n" not in message and str(path.parent) not in message, message
        if "crashed" in message:
            return f"crashed: {message}"
        for part, outcome in (
            ("took longer", "too long"),
            ("of memory", "too much memory"),
            ("failed unexpectedly", "decoder's bug"),
        ):
            if part in message:
                return outcome
        return "refused"
    return "accepted"


def run(count: int, seed: int = 0) -> tuple[Counter[tuple[str, str]], float]:
    """Outcomes by (format, outcome), and the longest time that one file took, in seconds.

    Raises:
        AssertionError: the sandbox does not work any more, a message tells too much, or a file took too long.
    """
    rng = random.Random(seed)
    outcomes: Counter[tuple[str, str]] = Counter()
    longest = 0.0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        valid = {**accepted(directory), "wav": write_sound(directory / "h.wav", "pcm_s16le")}
        contents = {kind: path.read_bytes() for kind, path in valid.items()}
        kinds = list(contents)
        sandbox = Sandbox(seconds=SECONDS, scratch=directory)
        try:
            for path in valid.values():
                assert outcome_of(sandbox, path) == "accepted", path
            for index in range(count):
                kind = kinds[index % len(kinds)]
                path = directory / "mutant"
                path.write_bytes(mutated(contents[kind], rng, contents[rng.choice(kinds)]))
                start = time.monotonic()
                outcomes[kind, outcome_of(sandbox, path)] += 1
                taken = time.monotonic() - start
                longest = max(longest, taken)
                assert taken < 3 * SECONDS, f"file {index} of seed {seed} took {taken:.1f} s"
            for path in valid.values():
                assert outcome_of(sandbox, path) == "accepted", path
        finally:
            sandbox.close()
    return outcomes, longest


def table(outcomes: Counter[tuple[str, str]]) -> str:
    names = sorted({outcome.partition(":")[0] for _, outcome in outcomes})
    lines = ["format".ljust(12) + "".join(name.rjust(18) for name in names)]
    for kind in dict.fromkeys(kind for kind, _ in outcomes):
        counts = [
            sum(n for (k, o), n in outcomes.items() if k == kind and o.partition(":")[0] == name) for name in names
        ]
        lines.append(kind.ljust(12) + "".join(str(n).rjust(18) for n in counts))
    lines += sorted({outcome for _, outcome in outcomes if ":" in outcome})
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.monotonic()
    outcomes, longest = run(arguments.count, arguments.seed)
    print(table(outcomes))
    print(f"{arguments.count} files in {time.monotonic() - start:.0f} s, the slowest in {longest:.2f} s")


if __name__ == "__main__":
    main()

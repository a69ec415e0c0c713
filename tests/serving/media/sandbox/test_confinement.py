"""The parts that a media worker's confinement is made of, as far as they can be looked at from outside."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.media.files import accepted, write_picture, write_sound
from zoetrope.serving.media.sandbox import landlock, seccomp
from zoetrope.serving.media.sandbox.confine import FLOOR, Layer, lacking
from zoetrope.serving.media.sandbox.open_file import NotWritten, OpenFile
from zoetrope.serving.media.sandbox.privileges import FIRST_USER, own_id
from zoetrope.serving.media.sandbox.seccomp import MACHINES, Machine, SeccompAction

ROOT = Path(__file__).resolve().parents[4]
PID = 4_321
THREAD = 0x3D_0F00  # the flags of glibc's pthread_create
SIGCHLD = 17  # of fork
# x86_64, aarch64: calls that would lead out. Numbers from asm/unistd_64.h and asm-generic/unistd.h.
OUTSIDE = {
    "openat": (257, 56),
    "openat2": (437, 437),
    "newfstatat": (262, 79),
    "execve": (59, 221),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "kill": (62, 129),
    "tkill": (200, 130),
    "ptrace": (101, 117),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "prlimit64": (302, 261),
    "prctl": (157, 167),
    "seccomp": (317, 277),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "memfd_create": (319, 279),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "setuid": (105, 146),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "setitimer": (38, 103),
    "shmget": (29, 194),
    "mq_open": (240, 180),
    "pkey_mprotect": (329, 288),
}


def verdict(machine: Machine, number: int, *arguments: int, threads: bool = True, audit: int | None = None) -> int:
    """What the filter says to a call, by a small machine for the few instructions of classic BPF that it has."""
    audit = machine.audit if audit is None else audit
    data = struct.pack("<iIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    code = seccomp.program(machine, PID, threads)
    position, held = 0, 0
    while True:
        operation, then, otherwise, operand = struct.unpack_from("=HBBI", code, 8 * position)
        position += 1
        match operation:
            case seccomp.LOAD:
                [held] = struct.unpack_from("<I", data, operand)
            case seccomp.AND:
                held &= operand
            case seccomp.IF_EQUAL:
                position += then if held == operand else otherwise
            case seccomp.RETURN:
                return int(operand)
            case _:
                raise AssertionError(operation)


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def test_calls_that_lead_out_fail(machine: Machine) -> None:
    assert {name: verdict(machine, numbers[machine.column]) for name, numbers in OUTSIDE.items()} == dict.fromkeys(
        OUTSIDE, SeccompAction.EPERM
    )


def test_all_that_is_not_named_fails(machine: Machine) -> None:
    named = {numbers[machine.column] for numbers in (*seccomp.CALLS.values(), *seccomp.MAPPING.values())}
    named |= {numbers[machine.column] for numbers in (seccomp.CLONE, seccomp.CLONE3, seccomp.TGKILL)}
    allowed = {number for number in range(1_024) if verdict(machine, number) != SeccompAction.EPERM}
    assert allowed <= named
    assert {numbers[machine.column] for numbers in seccomp.CALLS.values()} <= allowed


def test_memory_is_mapped_without_code(machine: Machine) -> None:
    for numbers in seccomp.MAPPING.values():
        number = numbers[machine.column]
        assert verdict(machine, number, 0, 4096, 1 | 2) == SeccompAction.ALLOW
        for protection in (4, 1 | 4, 1 | 2 | 4):
            assert verdict(machine, number, 0, 4096, protection) == SeccompAction.EPERM


def test_threads_start_and_processes_do_not(machine: Machine) -> None:
    clone, clone3 = seccomp.CLONE[machine.column], seccomp.CLONE3[machine.column]
    assert verdict(machine, clone, THREAD) == SeccompAction.ALLOW
    for flags in (SIGCHLD, 0x4111, THREAD & ~0x1_0000, THREAD | 0x1000_0000, THREAD | 0x4000_0000, THREAD | 0x2000, 0):
        assert verdict(machine, clone, flags) == SeccompAction.EPERM, hex(flags)
    assert verdict(machine, clone3) == SeccompAction.ENOSYS
    assert verdict(machine, clone, THREAD, threads=False) == SeccompAction.EPERM


def test_it_may_signal_itself_alone(machine: Machine) -> None:
    number = seccomp.TGKILL[machine.column]
    assert verdict(machine, number, PID, PID, 6) == SeccompAction.ALLOW
    assert verdict(machine, number, PID + 1, PID, 6) == SeccompAction.EPERM


def test_calls_of_another_architecture_end_the_process(machine: Machine) -> None:
    for audit in (0x4000_0003, 0x4000_0028, 0):  # i386, 32-bit Arm
        assert verdict(machine, 0, audit=audit) == SeccompAction.KILL


def test_x32_is_another_architecture() -> None:
    assert verdict(MACHINES["x86_64"], 0x4000_0000) == SeccompAction.EPERM


# The other layers


@pytest.mark.parametrize(
    "abi, size, files",
    [
        (1, 8, 0x1FFF),
        (2, 8, 0x3FFF),
        (3, 8, 0x7FFF),
        (4, 16, 0x7FFF),
        (5, 16, 0xFFFF),
        (6, 24, 0xFFFF),
        (9, 24, 0xFFFF),
    ],
)
def test_landlock_is_asked_for_what_it_knows(abi: int, size: int, files: int) -> None:
    attributes = landlock.ruleset(abi)
    assert len(attributes) == size and struct.unpack_from("<Q", attributes)[0] == files


def test_users_of_their_own() -> None:
    everything = ((0, 4_294_967_295),)
    assert own_id(everything, 1) == FIRST_USER + 1
    assert own_id(everything, 4_194_303) == FIRST_USER + 4_194_303
    container = ((0, 65_536),)
    ids = {own_id(container, pid) for pid in range(1, 2_000)}
    assert len(ids) == 1_999 and all(isinstance(it, int) and 32_768 <= it < 65_534 for it in ids)
    assert own_id(((0, 1), (1, 65_536)), 7) == 65_536 - 2 - 7
    assert own_id(((0, 1),), 7) is None and own_id((), 7) is None


def test_the_floor() -> None:
    every, either = FLOOR
    layers = [Layer(name, True) for name in (*every, *either)]
    assert lacking(layers) == []
    for layer in layers:
        without = [Layer(it.name, it is not layer, "because") for it in layers]
        assert lacking(without) == ([f"{layer.name} (because)"] if layer.name in every else [])
        absent = [it for it in layers if it is not layer]
        assert lacking(absent) == ([layer.name] if layer.name in every else [])
    neither = [Layer(name, name in every, "" if name in every else "no") for name in (*every, *either)]
    assert lacking(neither) == [f"{either[0]} (no) and {either[1]} (no)"]
    assert len(lacking([])) == len(every) + 1


# Files


def test_open_files_are_read_from_several_places_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    with path.open("rb") as file:
        it = OpenFile.of(file.fileno(), "a//b/../cat.mp4")
        assert f"{it}" == "a//b/../cat.mp4"
        with it.open("rb") as first, it.open("rb") as second:
            assert first.read(3) == b"\0\1\2"
            assert second.seek(-2, os.SEEK_END) == 25_598
            assert second.read() == b"\xfe\xff" and first.read(1) == b"\3"
            assert first.seek(1, os.SEEK_CUR) == 5 and first.tell() == 5
            with pytest.raises(OSError):
                first.seek(-1)
        assert it.read_bytes() == path.read_bytes()
        with pytest.raises(ValueError, match="must be 'rb' or 'wb'"):
            it.open("r")
        with pytest.raises(NotWritten), it.open("wb") as other:
            other.write(b"x")


def test_open_files_are_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w+b") as file:
        it = OpenFile.of(file.fileno(), "file")
        with it.open("wb") as target:
            target.write(b"abcdef" * 10_000)
            target.seek(3)
            target.write(b"DEF")
        assert path.read_bytes() == b"abcDEF" + b"abcdef" * 9_999
    with (
        open("/dev/full", "wb") as full,
        pytest.raises(NotWritten) as caught,
        OpenFile.of(full.fileno(), "").open("wb") as f,
    ):
        f.write(b"x")
    assert caught.value.args[0] == errno.ENOSPC


DECODE = """
import os, sys
from zoetrope.serving.media.sandbox.open_file import OpenFile
from zoetrope.serving.media.sandbox.worker import operations, warm_up
known = operations()
warm_up(known)
before = set(sys.modules)
for path in sys.argv[1:]:
    source, result = os.open(path, os.O_RDONLY), os.memfd_create("result")
    for operation, options in (
        ("probe_any", {}),
        ("read_picture", {}),
        ("read_clip", {"fps": 8.0, "max_seconds": 9.0, "size": [32, 32]}),
        ("write_sound", {"max_seconds": 3.0}),
    ):
        paths = [OpenFile.of(source, "it"), *([] if operation == "probe_any" else [OpenFile.of(result, "it")])]
        try:
            known[operation](*paths, **options)
        except Exception as error:
            assert type(error).__name__ in ("MediaError", "NoVideo"), error
print(sorted(set(sys.modules) - before))
"""


def test_nothing_is_loaded_while_files_are_decoded(tmp_path: Path) -> None:
    """Where no file can be opened, a module that is loaded late is missing."""
    files = [*accepted(tmp_path).values(), tmp_path / "cut.mp4", tmp_path / "nothing"]
    (tmp_path / "cut.mp4").write_bytes(files[0].read_bytes()[:-50])
    (tmp_path / "nothing").write_bytes(b"\0" * 100)
    files += [write_picture(tmp_path / f"p.{suffix}") for suffix in ("gif", "bmp", "tiff", "avif")]
    sounds = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus", "m4a": "aac"}
    files += [write_sound(tmp_path / f"s.{suffix}", codec) for suffix, codec in sounds.items()]
    done = subprocess.run(
        [sys.executable, "-c", DECODE, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr

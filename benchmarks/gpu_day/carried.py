"""What the machine does not have and cannot fetch, and so is carried there: wheels, compiled kernels, the commit.

All of it lies in one folder, ``out/gpu-day/carry`` unless said otherwise; `prepare` fills it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from zoetrope.benchmarks.provenance import REPOSITORY, code

CARRY = REPOSITORY / "out" / "gpu-day" / "carry"
PACKAGES = Path(__file__).with_name("packages.txt")
WHEELS, CARRIED_COMMIT, CACHE = "wheels", "commit.txt", "kernels.tar.gz"
PYTHON = "3.12"  # of the GPU machine
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 24, 17, 5)), "manylinux2014_x86_64")


@dataclass(frozen=True)
class CarriedPackage:
    """A package of ``packages.txt``; ``group`` is the heading that it stands under."""

    name: str
    version: str
    group: str

    @property
    def there(self) -> bool:
        """Tell whether this Python already has it, in this version or a newer one."""
        try:
            return _numbers(metadata.version(self.name)) >= _numbers(self.version)
        except metadata.PackageNotFoundError:
            return False


def _numbers(version: str) -> list[int]:
    """Return the release of a version: 0, 66 of ``0.66b2``."""
    return [int(number) for number in re.findall(r"\d+", re.split(r"[a-z+]", version, maxsplit=1)[0])]


def packages(text: str | None = None) -> list[CarriedPackage]:
    """Read the list: lines ``name==version`` under headings ``# group: what for``.

    Raises:
        ValueError: a line is neither.
    """
    found, group = [], ""
    for number, line in enumerate((PACKAGES.read_text() if text is None else text).splitlines(), 1):
        heading, colon, _ = line.removeprefix("#").partition(":")
        if line.startswith("#") and colon:
            group = heading.strip()
        elif line.strip() and not line.startswith("#"):
            name, equal, version = line.strip().partition("==")
            if not equal or not group:
                raise ValueError(
                    f"{PACKAGES.name}:{number}: {line!r} must be name==version under a heading '# group: ...'"
                )
            found.append(CarriedPackage(name, version, group))
    return found


def groups() -> list[str]:
    """Return the names of the groups of packages."""
    return list(dict.fromkeys(package.group for package in packages()))


def download(carry: Path, wanted: Iterable[str]) -> None:
    """Fetch the wheels of some groups for the GPU machine's Python; needs a network.

    Raises:
        subprocess.CalledProcessError: pip cannot.
    """
    folder = carry / WHEELS
    shutil.rmtree(folder, ignore_errors=True)
    names = set(wanted)
    pins = [f"{package.name}=={package.version}" for package in packages() if package.group in names]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "--dest", str(folder), *pins]
    subprocess.run(command, check=True)


def install(carry: Path, target: Path) -> list[str]:
    """Install those carried wheels whose package this Python lacks or has an older version of; return their names.

    Raises:
        subprocess.CalledProcessError: pip cannot.
    """
    known = {_flat(package.name): package for package in packages()}
    wheels = []
    for path in sorted((carry / WHEELS).glob("*.whl")):
        package = known.get(_flat(path.name.partition("-")[0]))
        if (package is None or not package.there) and not any(
            target.glob(f"{path.name.partition('-')[0]}-*.dist-info")
        ):
            wheels.append(path)
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        command += ["--disable-pip-version-check", "--no-warn-script-location", "--upgrade", "--target", str(target)]
        subprocess.run([*command, *map(str, wheels)], check=True)
    return [path.name for path in wheels]


def _flat(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def commit(carry: Path) -> str | None:
    """Return the commit of this code, in the form of ZOETROPE_COMMIT: as that or git says it, or as it was carried."""
    known = code()
    if known["commit"]:
        return f"{known['commit']}{'-dirty' if known['changed'] else ''}"
    path = carry / CARRIED_COMMIT
    return path.read_text().strip() if path.is_file() else None

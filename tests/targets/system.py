"""Prints the Debian packages of what tests/targets needs and the system lacks; `make test-targets` installs them."""

from __future__ import annotations

import shutil

from heddle.compiler.native.tools import missing
from heddle.compiler.native.tvm_files import ARCHITECTURES

PROGRAMS = {
    "chromium fonts-dejavu-core": ("chromium", "chromium-browser", "google-chrome"),
    "qemu-user-static": ("qemu-aarch64-static",),
    "clang": ("clang", "clang-14"),
    "pkg-config": ("pkg-config", "pkgconf"),
    "debootstrap": ("debootstrap",),
}
"""Programs, of which one must be there, by the packages that have them."""


def packages() -> list[str]:
    """Packages to install, sorted."""
    lacks = {name for arch in ARCHITECTURES for name in missing(arch).values()}
    lacks |= {name for name, programs in PROGRAMS.items() if not any(map(shutil.which, programs))}
    return sorted(lacks)


if __name__ == "__main__":
    print(" ".join(packages()))

"""Dockerfiles read and carried out without a daemon: steps run in chroots, stages are copies of folders. Needs root."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass
class Stage:
    """One stage: what it starts from, and its instructions (name, rest of the line) in order."""

    name: str
    base: str
    steps: list[tuple[str, str]]

    def last(self, instruction: str) -> str:
        """The rest of the last line of an instruction; KeyError where there is none."""
        return dict(self.steps)[instruction]


def parse(text: str) -> dict[str, Stage]:
    """The stages by name. Arguments before the first one are put in."""
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            for argument, value in arguments.items():
                base = base.replace(f"${{{argument}}}", value)
            stages[name] = Stage(name, base, [])
        else:
            list(stages.values())[-1].steps.append((instruction, rest.strip()))
    return stages


@dataclasses.dataclass
class Image:
    """A root with what a stage says of programs that are run in it."""

    root: Path
    environment: dict[str, str]
    user: str = "root"
    folder: str = "/"

    def run(self, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program as the image's user in its folder, with `more` variables."""
        done = subprocess.run(self.command(*command), capture_output=True, text=True, env=self.environment | more)
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done

    def command(self, *command: str) -> list[str]:
        """What runs a program so; chroot's own --userspec would need this machine to know the user."""
        shell = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        become = (
            [] if self.user == "root" else ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        )
        return ["chroot", str(self.root), *become, "/bin/sh", "-c", shell]


def build(text: str, context: Path, target: str, base: Path, scratch: Path, network: Mapping[str, str]) -> Image:
    """Carry out the stages that `target` needs on copies of `base`; `network` are variables for steps that fetch."""
    stages, built = parse(text), {}
    for name in needs(stages, target):
        stage = stages[name]
        image = Image(scratch / name, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"})
        parent = built.get(stage.base)
        subprocess.run(
            ["cp", "-a", "--reflink=auto", str(parent.root if parent else base), str(image.root)], check=True
        )
        if parent:
            image.environment |= parent.environment
        for instruction, rest in stage.steps:
            step(image, instruction, rest, context, built, network)
        built[name] = image
    return built[target]


def needs(stages: dict[str, Stage], target: str) -> list[str]:
    """The stages that one is made of, in order, with itself."""
    wanted, waiting = set(), [target]
    while waiting:
        stage = stages[waiting.pop()]
        wanted.add(stage.name)
        sources = [
            rest.split()[0].partition("=")[2] for name, rest in stage.steps if name == "COPY" and "--from=" in rest
        ]
        waiting += [name for name in [stage.base, *sources] if name in stages]
    return [name for name in stages if name in wanted]


def step(
    image: Image, instruction: str, rest: str, context: Path, built: Mapping[str, Image], network: Mapping[str, str]
) -> None:
    """One instruction."""
    if instruction == "RUN":
        image.run("/bin/sh", "-c", rest, **network)
    elif instruction == "ENV":
        image.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
    elif instruction == "WORKDIR":
        image.folder = rest
        (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif instruction == "USER":
        image.user = rest
    elif instruction == "COPY":
        *sources, destination = [word for word in rest.split() if not word.startswith("--")]
        origin = built[rest.split()[0].partition("=")[2]].root if rest.startswith("--from=") else context
        for source in sources:
            copy(image, origin / source.lstrip("/"), destination)
    else:
        assert instruction in ("EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"), instruction


def copy(image: Image, source: Path, destination: str) -> None:
    """A file or folder to where COPY puts it."""
    place = image.root / os.path.normpath(os.path.join(image.folder, destination)).lstrip("/")
    if source.is_dir():
        shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, place / source.name if destination.endswith("/") else place)


def words(line: str) -> list[str]:
    """The arguments of ENTRYPOINT or CMD in their JSON form."""
    return [str(word) for word in json.loads(line)]

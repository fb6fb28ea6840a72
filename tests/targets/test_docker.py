"""The images of the Dockerfile, carried out step by step in chroots of a Debian that is made for it: there need be no daemon."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.dockerfile_tools import Image, build, parse, words

pytestmark = pytest.mark.slow
TEXT = (ROOT / "Dockerfile").read_text()
SERVER = parse(TEXT)["server"]


def network(root: Path) -> dict[str, str]:
    """How this machine's pip fetches packages, as variables; files that these name are put into `root`."""
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        if not name.startswith(":env:"):
            found["PIP_" + name.partition(".")[2].replace("-", "_").upper()] = shlex.split(value)[0]
    found |= {
        name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower().endswith("_proxy")
    }
    if "PIP_CERT" in found:
        shutil.copy(found["PIP_CERT"], root / "etc" / "pip-cert.pem")
        found["PIP_CERT"] = "/etc/pip-cert.pem"
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image `server`, which is removed afterwards: the stages have 2 GB."""
    assert os.geteuid() == 0, "building a root needs root"
    assert shutil.which("debootstrap"), "debootstrap is not installed (Debian: apt-get install debootstrap)"
    scratch = tmp_path_factory.mktemp("docker")
    base = scratch / "base"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=True
    )
    mirror = listed.stdout.split()[0]
    command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(base), mirror]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    for settings in Path("/etc/apt/apt.conf.d").glob("*registry*"):
        shutil.copy(settings, base / "etc" / "apt" / "apt.conf.d")
    yield build(TEXT, ROOT, "server", base, scratch, network(base))
    shutil.rmtree(scratch)


@contextlib.contextmanager
def serving(image: Image, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """What `docker run` starts, until the end of the block."""
    command = image.command(*words(SERVER.last("ENTRYPOINT")), *arguments)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=image.environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_there_is_no_torch_and_no_compiler(image: Image) -> None:
    for program in ("g++", "c++", "cc", "gcc"):
        assert image.run("sh", "-c", f"command -v {program}", check=False).returncode != 0
    assert image.run("python3", "-c", "import torch", check=False).returncode != 0
    assert not list(image.root.rglob("libtvm_compiler.so"))
    assert list(image.root.rglob("libtvm_runtime.so"))


def test_it_serves_a_model_as_a_user_and_is_healthy(image: Image, tinydoc: Path) -> None:
    shutil.copytree(tinydoc, image.root / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    health = [word.replace(":8000/", f":{port}/") for word in words(SERVER.last("HEALTHCHECK").partition("CMD ")[2])]
    assert image.run(*health, check=False).returncode != 0, "nothing listens yet"
    with serving(image, *words(SERVER.last("CMD")), "--port", str(port), "--threads", "2") as server:
        until = time.monotonic() + 60
        while image.run(*health, check=False).returncode:
            assert server.poll() is None, server.stdout.read().decode() if server.stdout else ""
            assert time.monotonic() < until
            time.sleep(0.2)
        user = image.run("id", "-u").stdout.strip()
        assert int(user) >= 1000
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert f"Uid:\t{user}" in status
        body = json.dumps({"model": "model", "prompt": "The command", "max_tokens": 4, "temperature": 0}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["choices"][0]["text"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) in (0, 128 + signal.SIGTERM, -signal.SIGTERM)


def test_a_model_that_is_missing_is_explained(image: Image) -> None:
    with serving(image, "/nowhere") as server:
        out, _ = server.communicate(timeout=60)
    assert server.returncode == 1
    assert b"/nowhere" in out

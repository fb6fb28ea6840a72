"""What the Dockerfile says, without building it (tests/targets/test_docker.py does)."""

from __future__ import annotations

import tomllib

from tests.conftest import ROOT
from tests.dockerfile_tools import needs, parse, words

STAGES = parse((ROOT / "Dockerfile").read_text())


def test_the_server_is_the_default_and_needs_no_other_image() -> None:
    assert list(STAGES)[-1] == "server"
    assert needs(STAGES, "server") == ["python", "build", "trimmed", "server"]
    assert needs(STAGES, "compile") == ["python", "build", "compile"]


def test_final_images_run_as_a_user_that_is_not_root() -> None:
    for name in ("server", "compile"):
        steps = [instruction for instruction, _ in STAGES[name].steps]
        assert STAGES[name].last("USER") == "heddle"
        assert steps.index("USER") < steps.index("ENTRYPOINT")
        assert "RUN" not in steps[steps.index("USER") :]
    assert "useradd --uid" in STAGES["python"].last("RUN")


def test_the_health_check_asks_the_port_that_is_served() -> None:
    command = words(STAGES["server"].last("HEALTHCHECK").partition("CMD ")[2])
    port = STAGES["server"].last("EXPOSE")
    entry = words(STAGES["server"].last("ENTRYPOINT"))
    assert entry[:2] == ["heddle", "serve"]
    assert entry[entry.index("--port") + 1] == port
    assert f"http://127.0.0.1:{port}/health" in command[-1]
    compile(command[-1], "health", "exec")


def test_all_that_is_copied_is_sent_to_the_builder_and_all_packages_are_copied() -> None:
    copied = {word for name, rest in STAGES["build"].steps if name == "COPY" for word in rest.split()[:-1]}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == sent
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()
    assert set(packages) <= copied
    assert all((ROOT / name).exists() for name in copied)


def test_no_image_has_torch() -> None:
    assert "torch" not in " ".join(rest for stage in STAGES.values() for name, rest in stage.steps if name == "RUN")

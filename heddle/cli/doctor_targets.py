"""What `heddle doctor` says of target profiles: which of them this machine runs, and which it makes libraries for."""

from __future__ import annotations

from typing import Any


def examine_targets() -> tuple[dict[str, Any], list[str]]:
    """The best `target` of this machine, its `linker`, the state of all `targets`; and what is wrong."""
    from ..runtime.features import architecture
    from ..runtime.tvm import can_compile

    if not can_compile():
        return {
            "target": "artifacts alone (TVM's compiler is not installed)",
            "linker": "not needed",
            "targets": {},
        }, []
    from ..schedules.target import resolve_target

    problems, targets = [], states()
    try:
        best = resolve_target().name
    except ValueError as error:
        best = "none"
        problems.append(str(error))
    linkers = [state["linker"] for state in targets.values() if state["arch"] == architecture()]
    linker = next(filter(None, linkers), "none")
    if linker == "none":
        problems.append("no C++ linker: install g++, or set CXX (only compiling needs it)")
    return {"target": best, "linker": linker, "targets": targets}, problems


def states() -> dict[str, dict[str, Any]]:
    """By profile: its `arch`, whether it `runs` here, what it `needs` that this machine lacks (as an artifact's refusal says it),
    the `linker` of its libraries, and how to `fix` that there is none. Profiles that whole models are not compiled for yet have
    "" for both.
    """
    from ..compiler.codegen import linker
    from ..compiler.manifest import target_info
    from ..runtime.artifact import obstacle
    from ..runtime.errors import HeddleError
    from ..schedules.target import PROFILES, SIMT

    found: dict[str, dict[str, Any]] = {}
    for name, profile in PROFILES.items():
        needs = obstacle(target_info(profile, "", ""))
        state = {"arch": profile.arch, "runs": not needs, "needs": needs, "linker": "", "fix": ""}
        try:
            state["linker"] = "" if profile.kernels == SIMT else linker(profile)
        except HeddleError as missing:
            state["fix"] = missing.fix
        found[name] = state
    return found


def described(state: dict[str, Any]) -> str:
    """One profile's state in words."""
    if not state["linker"] and not state["fix"]:
        return "kernels only, no whole models yet"
    runs = "runs here" if state["runs"] else f"needs {state['needs']}"
    links = f"linked by {state['linker']}" if state["linker"] else f"no linker: {state['fix']}"
    return f"{runs}; {links}"

"""Lift weight-only expressions out of the step: they become parameters, computed once at compile time.

    w = pack_weight(concat(wq, wk))  -->  parameter "layers.0.attn.q+k.weight.tile32"

What the parameter is made of is kept as a recipe in the module's attributes; the compiler evaluates recipes one at a time
with the ops' NumPy references (and quantizes with its own encoder), so that compiling needs little more memory than the
largest weight.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from ..schedules.compat import ir, relax
from .dialect import OPS, attr, pack_weight, pad_vector, quantize_weight
from .passes import PassLog
from .straightline import DROP, Rewriter, rewrite_functions

CONCAT = ir.Op.get("relax.concat")
ADD = ir.Op.get("relax.add")
RECIPES = "heddle.weights"
WEIGHT_OPS = (pack_weight, pad_vector, quantize_weight)

Recipe = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LiftWeights:
    """Lift `concat`, `add` and the ops on weights (WEIGHT_OPS) of parameters.

    `num_input` of a function separates inputs from weights.
    """

    name: str = "lift_weights"

    def __call__(self, mod: ir.IRModule, log: PassLog) -> ir.IRModule:
        recipes: dict[str, Recipe] = {}
        out = rewrite_functions(mod, log, lambda func, log: _lift(func, recipes, log))
        return out.with_attr(RECIPES, json.dumps(recipes))


@dataclasses.dataclass(frozen=True)
class LiftedWeight:
    """A parameter of the lowered functions: its storage dtype and shape, and what it is made of.

    A recipe is {"source": name of a logical weight} or {"op", "attrs", "args": recipes}.
    """

    dtype: str
    shape: tuple[int, ...]
    recipe: Recipe


def lifted_weights(mod: ir.IRModule) -> dict[str, LiftedWeight]:
    """Every weight of a module right after this pass, by parameter name."""
    recipes = json.loads(str(mod.attrs[RECIPES]))
    weights = {}
    for func in mod.functions.values():
        for param in weight_params(func):
            name = str(param.name)
            weights[name] = LiftedWeight(str(param.ty.dtype), tuple(int(d) for d in param.ty.shape), recipes[name])
    return weights


def weight_params(func: ir.BaseFunc) -> list[relax.Var]:
    """The parameters of a function after its inputs."""
    return list(func.params)[int(func.attrs["num_input"]) :]


def _lift(func: relax.Function, recipes: dict[str, Recipe], log: PassLog) -> relax.Function:
    rewriter = Rewriter(func)
    inputs = int(func.attrs["num_input"])
    known: dict[relax.Var, Recipe] = {v: {"source": str(v.name)} for v in weight_params(func)}
    for var, value in rewriter.bindings:
        recipe = _recipe(value, known)
        if recipe is not None:
            known[var] = recipe
    lifted: dict[str, relax.Var] = {}
    bound = {var for var, _ in rewriter.bindings}

    def visit(var: relax.Var, value: relax.Expr) -> object:
        if var in known:
            return DROP
        for used in relax.analysis.free_vars(value):
            if used not in known:
                continue
            recipe = known[used]
            name = parameter_name(recipe)
            if recipes.setdefault(name, recipe) != recipe:
                raise ValueError(f"two different weights would both be called {name!r}")
            if name not in lifted:
                lifted[name] = relax.Var(name, used.ty)
                if used in bound:
                    log.matched(name)
                else:
                    log.missed(name, "stored as it is")
            rewriter.provide(used, lifted[name])
        return None

    return rewriter.rebuild(visit, params=lambda: [*func.params[:inputs], *lifted.values()])


def _recipe(value: relax.Expr, known: dict[relax.Var, Recipe]) -> Recipe | None:
    """The recipe of a weight-only expression, else None."""
    if not isinstance(value, relax.Call):
        return None
    attrs: Recipe = {}
    if value.op == CONCAT:
        args, name = list(value.args[0].fields), "concat"
        if int(value.attrs.axis) != 0:
            return None
    elif value.op == ADD:
        args, name = list(value.args), "add"
    elif any(op.matches(value) for op in WEIGHT_OPS):
        args, name = list(value.args), str(value.op.name)
        attrs |= {key: attr(value, key) for key in value.attrs.keys()}  # noqa: SIM118 (not a dict)
    else:
        return None
    if not all(isinstance(a, relax.Var) and a in known for a in args):
        return None
    return {"op": name, "attrs": attrs, "args": [known[a] for a in args]}


def parameter_name(recipe: Recipe) -> str:
    """A readable name: sources joined by `+`, then the layout, or the format and which of its arrays."""
    if "source" in recipe:
        return recipe["source"]
    names = [parameter_name(a) for a in recipe["args"]]
    if recipe["op"] in ("concat", "add"):
        return _joined(names)
    attrs = recipe["attrs"]
    if recipe["op"] == quantize_weight.name:
        return f"{names[0]}.{attrs['format']}.{attrs['array']}"
    return f"{names[0]}.{attrs.get('layout', 'padded')}"


def _joined(names: list[str]) -> str:
    """`a.q.weight`, `a.k.weight` -> `a.q+k.weight`: the one component in which the names differ."""
    split = [n.split(".") for n in names]
    if len({len(s) for s in split}) == 1:
        differing = [i for i in range(len(split[0])) if len({s[i] for s in split}) > 1]
        if len(differing) == 1:
            merged = list(split[0])
            merged[differing[0]] = "+".join(s[differing[0]] for s in split)
            return ".".join(merged)
    return "+".join(names)


def evaluate(
    recipe: Recipe,
    read: Callable[[str], np.ndarray],
    quantized: Callable[[Recipe], np.ndarray] | None = None,
) -> np.ndarray:
    """The NumPy value of a recipe. `read(name)` gives the logical weight called `name`, `quantized` the value of recipes
    whose op is `quantize_weight`: which codes and scales are best is for the compiler to say."""
    if "source" in recipe:
        return read(recipe["source"])
    if recipe["op"] == quantize_weight.name:
        assert quantized is not None, "a model with quantized weights needs an encoder"
        return quantized(recipe)
    args = [evaluate(a, read, quantized) for a in recipe["args"]]
    if recipe["op"] == "concat":
        return np.concatenate(args, axis=0)
    if recipe["op"] == "add":
        return args[0] + args[1]
    return OPS[recipe["op"]].reference(*args, **recipe["attrs"])[0]

"""The process that imports torch: a module becomes Relax IR, weights and a signature in files. No other file imports torch.

    python -m heddle.compiler.torch_export.child SOURCE FOLDER

SOURCE is `file.py:function` or a program saved by `torch.export.save`. FOLDER receives `result.json`, which holds either
{"problems": [[what, why, fix], ...]} or the signature, and then also `program.json` (IR) and `weights.safetensors`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import EXAMPLES, PROGRAM, RESULT, WEIGHTS

Found = tuple[str, str, str]  # what, why, fix
BRANCHING = {
    "cond": "compute both branches and choose with torch.where",
    "_assert_async.msg": "leave the assertion out of the module",
}
"""Operators that would make the program more than a list of operations, and what to do without them."""
KINDS = ("float32", "int64", "int32", "int16", "int8", "uint8", "bool")  # element types of inputs and weights


class ExportError(Exception):
    """A module that cannot be compiled; the arguments are all problems found."""


@contextmanager
def doing(what: str, fix: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a problem that shows the last lines of its traceback."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        lines = "".join(traceback.format_exception(error)).strip().splitlines()
        raise ExportError((what, "\n".join(lines[-12:]), fix)) from error


def exported_program(source: str) -> tuple[Any, Any]:
    """The torch.export.ExportedProgram that `source` names, and its dynamic shapes where they are known.

    A function may also return what torch.export.export takes.
    """
    import torch

    path, _, function = source.rpartition(":") if not Path(source).is_file() else (source, "", "")
    if not function:
        with doing(f"{path} cannot be read by torch.export.load", "save it with torch.export.save(program, path)"):
            return torch.export.load(path), None
    with doing(f"{path} cannot be imported", "it must run as a Python module"):
        sys.path.insert(0, str(Path(path).parent))
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        assert spec is not None, "not a Python file"
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ExportError((f"{path} has no function {function!r}", f"it has: {', '.join(names) or 'none'}", ""))
    with doing(f"{function}() in {path} fails", "it takes no arguments"):
        made = getattr(module, function)()
    if isinstance(made, torch.export.ExportedProgram):
        return made, None
    if not (isinstance(made, tuple) and len(made) in (2, 3) and isinstance(made[0], torch.nn.Module)):
        what = f"{function}() in {path} returns {type(made).__name__}"
        fix = "return (module, example arguments), (module, example arguments, dynamic_shapes) or an ExportedProgram"
        raise ExportError((what, "", fix))
    net, args, *shapes = made
    with doing("torch.export cannot trace the module", "see torch.export's documentation, or export it yourself"):
        dynamic = shapes[0] if shapes else None
        return torch.export.export(net.eval(), tuple(args), dynamic_shapes=dynamic), dynamic


def decomposed(program: Any) -> Any:
    """The program in torch's core operators, linears kept whole: they are what Heddle has kernels for."""
    import torch

    table = torch.export.default_decompositions()
    table.pop(torch.ops.aten.linear.default, None)
    with doing("torch cannot decompose the program into its core operators", ""):
        return program.run_decompositions(table)


def problems(program: Any, known: Any) -> list[Found]:
    """Everything about the program that has no place in an artifact: operators, types, state, control flow."""
    found: list[Found] = []
    unknown: dict[str, list[str]] = {}
    for node in program.graph.nodes:
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and (name not in known or name in BRANCHING):
            unknown.setdefault(name, []).append(_place(node))
    for name, places in unknown.items():
        fix = BRANCHING.get(name, "replace it in the module")
        found.append((f"operator {name} is not supported", f"used at {_and_more(places)}", fix))
    signature = program.graph_signature
    for name in (*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()):
        why = "a compiled module has no state between calls, and leaves its arguments as they are"
        found.append((f"{name} is changed by the module", why, "take it as an argument and return it"))
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    types: dict[str, list[str]] = {}
    for spec in signature.input_specs:
        value = values.get(spec.arg.name)
        label = spec.target or f"argument {spec.arg.name}"
        if value is None or not hasattr(value, "dtype"):
            found.append((f"{label} is {value!r}, not a tensor", "", "fix it inside of the module"))
        elif (dtype := str(value.dtype).removeprefix("torch.")) not in KINDS:
            types.setdefault(dtype, []).append(label)
    for dtype, labels in types.items():
        fix = "export module.float() with float32 arguments; --dtype stores the matrices in fewer bits"
        what = f"tensors of {dtype} are not supported: {_and_more(labels)}"
        found.append((what, f"supported: {', '.join(KINDS)}", fix if "float" in dtype else ""))
    return found


def _and_more(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _place(node: Any) -> str:
    """The innermost line of the user's code that an operator comes from."""
    frames = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File " in line]
    own = [line for line in frames if "/torch/nn/" not in line] or frames
    return own[-1].replace("File ", "") if own else f"node {node.name}"


def signature(program: Any, dynamic: Any) -> dict[str, Any]:
    """Inputs and outputs as the manifest has them: name, type, and shape of numbers and names of dimensions; their bounds."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    specs = program.graph_signature
    symbols = _names(specs.user_inputs, values, dynamic)
    spec = program.call_spec.out_spec
    keys = [str(key) for key in spec.context] if spec.type is dict else []
    returns = "tensor" if spec.is_leaf() else "dict" if len(keys) == len(specs.user_outputs) else "tuple"
    names = keys if returns == "dict" else [f"output_{i}" for i in range(len(specs.user_outputs))]
    bounds = {}
    for symbol, interval in program.range_constraints.items():
        upper = float(interval.upper)
        bounds[_renamed(symbol, symbols)] = [int(interval.lower), int(upper) if upper < 1 << 62 else None]
    return {
        "inputs": [_tensor(name, values[name], symbols) for name in specs.user_inputs],
        "outputs": [_tensor(name, values[node], symbols) for name, node in zip(names, specs.user_outputs, strict=True)],
        "bounds": bounds,
        "returns": returns,
    }


def _names(inputs: list[str], values: dict[str, Any], dynamic: Any) -> dict[str, str]:
    """The names that the user gave to dimensions, by the symbols that torch made of them."""
    given = dynamic if isinstance(dynamic, dict) else dict(zip(inputs, dynamic or (), strict=False))
    found: dict[str, str] = {}
    for name, dims in given.items():
        if isinstance(dims, list | tuple):
            dims = dict(enumerate(dims))
        for axis, dim in dims.items() if isinstance(dims, dict) and name in values else ():
            label = getattr(dim, "__name__", "")
            if label.isidentifier() and label not in found.values():
                found.setdefault(str(values[name].shape[axis]), label)
    return found


def _tensor(name: str, value: Any, symbols: dict[str, str]) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else _renamed(size, symbols) for size in value.shape]
    return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape}


def _renamed(extent: Any, symbols: dict[str, str]) -> str:
    """An expression of torch's symbols in the user's names."""
    return re.sub(r"\w+", lambda found: symbols.get(found[0], found[0]), str(extent))


def examples(program: Any) -> dict[str, Any]:
    """The example arguments and what torch makes of them, as arrays by the names of EXAMPLES."""
    import torch
    from torch.utils._pytree import tree_leaves

    if program.example_inputs is None:
        raise ExportError(
            ("the program has no example arguments", "the compiled module is tried on them", "export it again")
        )
    args, kwargs = program.example_inputs
    with doing("the module fails on its example arguments", ""), torch.no_grad():
        results = tree_leaves(program.module()(*args, **kwargs))
    return _numbered("input", tree_leaves((args, kwargs))) | _numbered("output", results)


def _numbered(kind: str, tensors: list[Any]) -> dict[str, Any]:
    return {f"{kind}.{i}": tensor.detach().contiguous().numpy() for i, tensor in enumerate(tensors)}


def convert(source: str, folder: Path) -> dict[str, Any]:
    """Write program and weights; the signature. ExportError with all problems."""
    import torch  # noqa: F401  (before tvm, which would else be kept from it)
    from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

    from ...runtime import safetensors
    from ...schedules.compat import ir
    from .exact import exact
    from .normalize import normalize

    whole, dynamic = exported_program(source)
    program = decomposed(whole)
    importer = ExportedProgramImporter()
    if found := problems(program, importer.convert_map):
        raise ExportError(*found)
    result = signature(program, dynamic)
    with doing("the program cannot be translated", "an operator is used in a way that the translation does not know"):
        importer.convert_map = {op: exact(importer, convert) for op, convert in importer.convert_map.items()}
        mod = importer.from_exported_program(program, True, False, False, None)
        inputs = program.graph_signature.input_specs
        mod, arrays = normalize(mod, {spec.arg.name: spec.target for spec in inputs if spec.target})
    weights = {name: tensor.detach().contiguous().numpy() for name, tensor in program.named_parameters()}
    for file, tensors in ((WEIGHTS, weights | arrays), (EXAMPLES, examples(whole))):
        specs = [(name, str(array.dtype), array.shape) for name, array in tensors.items()]
        safetensors.write(folder / file, specs, tensors.__getitem__)
    (folder / PROGRAM).write_text(ir.save_json(mod))
    return result


def main(source: str, folder: Path) -> None:
    """Convert and write the result, whatever it is."""
    try:
        result = convert(source, folder)
    except ImportError as error:
        why = f"{error}; exporting a torch module needs torch"
        result = {"problems": [("torch cannot be imported", why, "pip install 'heddle[torch]'")]}
    except ExportError as error:
        result = {"problems": error.args}
    (folder / RESULT).write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

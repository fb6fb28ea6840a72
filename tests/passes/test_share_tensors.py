"""ShareTensors: one tensor for each place in planned memory, no tuples in between, nothing given back early."""

from __future__ import annotations

import numpy as np

from heddle.ir_passes.dialect import add_op
from heddle.ir_passes.passes import PassLog
from heddle.ir_passes.pipeline import virtual_machine
from heddle.ir_passes.share_tensors import ALLOC_TENSOR, KILLS, ShareTensors
from heddle.runtime.tvm import to_numpy
from heddle.schedules.compat import ir, relax, tirx, tvm
from heddle.schedules.target import profile_scope, resolve_target
from tests.ir_tools import apply, as_tensor, assert_equal, function, normal

n = tirx.Var("n", "int64")


def step(name, *args, result=None):
    """A call of a kernel by name, which writes its last argument."""
    return relax.Call(relax.ExternFunc(name), args, ret_ty=result or relax.TupleType([]))


def storage(emit):
    return emit(relax.op.memory.alloc_storage(relax.ShapeExpr([4096]), 0, "global", "float32"), "storage")


def tensor(emit, place, columns=8):
    return emit(relax.op.memory.alloc_tensor(place, 0, relax.ShapeExpr([n, columns]), "float32"), "tensor")


def program(body) -> ir.IRModule:
    """A function over x float32[n, 8]; `body(emit, x)` returns its result."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([n, 8], "float32"))
    with builder.function("main", [x], attrs={"relax.force_pure": True}):
        builder.emit_func_output(body(builder.emit, x))
    return builder.finalize()


def before(emit, x):
    """Two kernels write the same place, one after the other; the results go through a tuple."""
    place = storage(emit)
    first = tensor(emit, place)
    other = tensor(emit, place, columns=4)
    emit(step("f", x, first))
    pair = emit(relax.Tuple([first, other]))
    emit(step("g", emit(relax.TupleGetItem(pair, 0)), other))
    emit(relax.op.memory.kill_tensor(first))
    again = emit(tensor(emit, place))  # under two names
    emit(step("f", other, again))
    emit(relax.op.memory.kill_tensor(again))
    emit(relax.op.memory.kill_storage(place))
    return x


def expected(emit, x):
    place = storage(emit)
    first = tensor(emit, place)
    other = tensor(emit, place, columns=4)
    emit(step("f", x, first))
    emit(step("g", first, other))
    emit(step("f", other, first))
    return x


def test_expected():
    after, log = apply(ShareTensors(), program(before))
    assert_equal(after, program(expected))
    assert log.records[0].site == "main: 1 tensors shared"


def test_must_not_fire_on_other_places_and_results():
    def different(emit, x):
        """Another storage, another shape, and a tuple that is used as a whole."""
        first, second = tensor(emit, storage(emit)), tensor(emit, storage(emit))
        emit(step("f", x, first))
        emit(step("f", x, second))
        return emit(step("h", emit(relax.Tuple([first, second])), result=relax.TensorType([n, 8], "float32")))

    after, log = apply(ShareTensors(), program(different))
    assert_equal(after, program(different))
    assert log.records[0].site == "main: 0 tensors shared"


def test_must_not_fire_where_shapes_are_matched():
    def matching(emit, x):
        builder = relax.BlockBuilder.current()
        emit(relax.op.memory.kill_storage(storage(emit)))
        return builder.match_cast(x, relax.TensorType([n, 8], "float32"))

    after, log = apply(ShareTensors(), program(matching))
    assert_equal(after, program(matching))
    assert log.records[0].reason == "its body branches, matches shapes or has functions"


def test_numeric():
    """A chain of sums, three of which share two places, gives what it gave."""

    def chain(emit, x):
        y = x
        for _ in range(5):
            y = emit(add_op(y, x))
        return y

    mod = function([("x", ["n", 40], "float32")], chain, num_input=1, name="body_8")
    mod["body_8"] = mod["body_8"].with_attr("tir_var_upper_bound", {"n": 8})
    profile, x = resolve_target(), normal(np.random.default_rng(0), 5, 40)
    with profile_scope(profile), profile.tvm_target():
        mod = relax.transform.LegalizeOps()(mod)
        for phase in virtual_machine(planned=True):
            mod = phase(mod, PassLog())
            if phase.name == "share_tensors":
                calls = [b.value for block in mod["body_8"].body.blocks for b in block.bindings]
                assert sum(c.op == ALLOC_TENSOR for c in calls if isinstance(c, relax.Call)) == 2
                assert not [c for c in calls if isinstance(c, relax.Call) and c.op in KILLS]
        executable = relax.build(mod, target=profile.tvm_target(), relax_pipeline=tvm.transform.Sequential([]))
    got = to_numpy(relax.VirtualMachine(executable, tvm.cpu())["body_8"](as_tensor(x)))
    want = x
    for _ in range(5):
        want = want + x
    np.testing.assert_array_equal(got, want)

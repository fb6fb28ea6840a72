"""WGSL in Chromium: the browser accepts the source of every case, and kernels that it runs give what their references say.

SwiftShader, the device of a machine without a GPU, has no 16-bit floats: sources are checked with 32-bit ones in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

import heddle.ir_passes.sparse.catalog
import heddle.schedules.catalog  # noqa: F401
from heddle.schedules.compat import tirx, tvm_ffi
from heddle.schedules.registry import KERNELS
from heddle.schedules.target import PROFILES
from tests.gpu_tools import Point, built, device_source, points, primfunc
from tests.targets.conftest import Launch
from tests.test_kernels import largest_error
from tests.web_tools import Script, running, scripted

FLAGS = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
DEVICE = """async () => {
  const adapter = await navigator.gpu.requestAdapter();
  const limits = {maxStorageBuffersPerShaderStage: Math.min(10, adapter.limits.maxStorageBuffersPerShaderStage)};
  window.device = await adapter.requestDevice({requiredLimits: limits});
}"""
CHECK = """async sources => {
  const wrong = [];
  for (const code of sources) {
    device.pushErrorScope("validation");
    const info = await device.createShaderModule({code}).getCompilationInfo();
    const error = await device.popErrorScope();
    if (error) wrong.push(info.messages.map(m => `${m.lineNum}: ${m.message}`).join("\\n") + code.split("\\n")[0]);
  }
  return wrong;
}"""
RUN = """async ([code, arrays, numbers, blocks]) => {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({code});
  const pipeline = await device.createComputePipelineAsync({layout: "auto", compute: {module, entryPoint: "kernel"}});
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
  const made = (bytes, usage) => {
    const buffer = device.createBuffer({size: bytes.length, usage});
    device.queue.writeBuffer(buffer, 0, new Uint8Array(bytes));
    return buffer;
  };
  const buffers = arrays.map(bytes => made(bytes, usage));
  const uniform = made(numbers, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
  const entries = [...buffers, uniform].map((buffer, binding) => ({binding, resource: {buffer}}));
  const group = device.createBindGroup({layout: pipeline.getBindGroupLayout(0), entries});
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(blocks);
  pass.end();
  const reads = buffers.map((buffer, i) => {
    const read = device.createBuffer({size: arrays[i].length, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST});
    encoder.copyBufferToBuffer(buffer, 0, read, 0, arrays[i].length);
    return read;
  });
  device.queue.submit([encoder.finish()]);
  const out = [];
  for (const read of reads) {
    await read.mapAsync(GPUMapMode.READ);
    out.push([...new Uint8Array(read.getMappedRange())]);
  }
  const error = await device.popErrorScope();
  return [error ? error.message : "", out];
}"""


@pytest.fixture(scope="module")
def gpu(launch: Launch) -> Iterator[Page]:
    """A page with a WebGPU device."""
    with running(scripted(Script())) as url:  # WebGPU wants a secure origin
        browser = launch(*FLAGS)
        page = browser.new_page()
        page.goto(url)
        page.evaluate(DEVICE)
        yield page
        browser.close()


def sources(point: Point) -> list[str]:
    """The kernels of a case, each with its name in the first line; none where it is refused."""
    try:
        text = device_source(built([point], PROFILES["webgpu"]))
    except ValueError:
        return []
    return [f"// {part}" for part in text.split("// Function: ")[1:] if "@compute" in part]


@pytest.mark.parametrize("name", KERNELS)
def test_the_browser_accepts_every_case(gpu: Page, name: str) -> None:
    texts = [text for point in points() if point[1].name == name for text in sources(point)]
    plain = [text.replace("enable f16;", "").replace("f16", "f32") for text in texts]
    assert gpu.evaluate(CHECK, plain) == []


RUNS = {"rms_norm": 3, "pack_rows": 3, "quant_embedding": 11, "quant_linear_rows": 29}
"""Cases that run, by kernel: with barriers, with bytes read as words."""


def blocks(func: Any, sizes: dict[str, int]) -> int:
    """How many blocks the last kernel of a function has."""
    extents: list[Any] = []

    def visit(loop: Any) -> None:
        if loop.thread_binding is not None and str(loop.thread_binding.thread_tag) == "blockIdx.x":
            extents.append(loop.extent)

    tvm_ffi.structural_walk(func.body, (tirx.For, visit))
    return int(extents[-1]) if isinstance(extents[-1], tirx.IntImm) else sizes[str(extents[-1].name)]


@pytest.mark.parametrize("name", RUNS)
def test_what_the_browser_computes(gpu: Page, name: str) -> None:
    kernel = KERNELS[name]
    case = kernel.cases[RUNS[name]]
    point = (name, kernel, case)
    func, text = primfunc(point, PROFILES["webgpu"]), sources(point)[-1]

    inputs = kernel.inputs(np.random.default_rng(0), **case.params, **case.sizes)
    (wanted,) = kernel.reference(*[np.copy(a) for a in inputs], **case.params)
    arrays = dict(zip((str(p.name) for p in func.params), [*inputs, np.full_like(wanted, 77)], strict=True))
    sizes = {
        str(dim.name): size
        for param in func.params
        for dim, size in zip(param.shape, arrays[str(param.name)].shape, strict=True)
        if isinstance(dim, tirx.Var)
    }
    count = blocks(func, sizes)
    order = re.findall(r"var<storage, \w+> (\w+)_ptr", text)
    fields = re.findall(r"(\w+): [iu]32", text[text.index("struct PODArgs") :].partition("}")[0])
    numbers = np.array([{**sizes, "packGridDimX": count - 1}[field] for field in fields], np.uint32)
    padded = numbers.tobytes() + bytes(-numbers.nbytes % 16)
    entry = re.findall(r"^fn (\w+)\(", text, re.MULTILINE)[-1]
    given = [list(arrays[n].tobytes() + bytes(-arrays[n].nbytes % 4)) for n in order]
    error, out = gpu.evaluate(RUN, [text.replace(f"fn {entry}(", "fn kernel("), given, list(padded), count])
    assert error == ""
    last = str(func.params[-1].name)
    found = np.frombuffer(bytes(out[order.index(last)]), wanted.dtype)[: wanted.size].reshape(wanted.shape)
    assert largest_error(found, wanted) <= 1e-5, "WGSL may round twice where other targets fuse"

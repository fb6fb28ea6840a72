"""The other side of `peer.py`: times operations of torch, SciPy and MKL in a process of its own.

torch and TVM's LLVM must not share a process. Requests are JSON lines on stdin: {"case": name, "file": .npz} prepares a case,
{"time": name, "repeat": n} answers mean seconds. An operation that is not there answers {"missing": why}.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoders
import numpy as np
from simulate import decoder_losses

THREADS = int(os.environ["OMP_NUM_THREADS"])


def torch_csr(a: dict[str, np.ndarray]) -> Any:
    torch = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    parts = [torch.from_numpy(a[n]) for n in ("indptr", "indices", "data")]
    return torch, torch.sparse_csr_tensor(*parts, tuple(a["shape"].tolist()))


def scipy_csr(a: dict[str, np.ndarray]) -> Any:
    sparse = importlib.import_module("scipy.sparse")
    return sparse.csr_matrix((a["data"], a["indices"], a["indptr"]), shape=tuple(a["shape"].tolist()))


def spmm_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    torch, matrix = torch_csr(a)
    product, b = fastest_product(torch, matrix, a["b"]), torch.from_numpy(a["b"])
    return lambda: product(matrix, b)


def spmm_scipy(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    matrix, b = scipy_csr(a), a["b"]
    return lambda: matrix @ b


def spmm_mkl(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    for library in Path(sys.prefix, "lib").glob("libmkl_rt.so*"):
        os.environ.setdefault("MKL_RT", str(library))  # where `pip install mkl` puts it, and the package does not look
    mkl = importlib.import_module("sparse_dot_mkl")
    matrix, b = scipy_csr(a), a["b"]
    return lambda: mkl.dot_product_mkl(matrix, b)


def bsr_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    parts = [torch.from_numpy(a[n]) for n in ("indptr", "indices", "data")]
    matrix, b = torch.sparse_bsr_tensor(*parts, tuple(a["shape"].tolist())), torch.from_numpy(a["b"])
    return lambda: matrix @ b


def sddmm_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    """The faster of z.T as a view and z.T as a contiguous matrix; the sum of `A + x @ z.T` on the entries of A."""
    torch, matrix = torch_csr(a)
    x, z = torch.from_numpy(a["x"]), torch.from_numpy(a["z"])
    call = torch.sparse.sampled_addmm
    choices = [z.T, z.T.contiguous()]
    best = min(choices, key=lambda t: min(_seconds(lambda: call(matrix, x, t), 1) for _ in range(3)))
    return lambda: call(matrix, x, best)


def attention_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    """SDPA over contiguous float32 keys and values, causal where there are several rows; the faster of two ways to share
    heads: by `enable_gqa`, and over keys and values that were repeated before."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    q, k, v = (torch.from_numpy(a[n]) for n in "qkv")
    causal, sharing = bool(q.shape[2] > 1), q.shape[1] // k.shape[1]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    wide = [x.repeat_interleave(sharing, dim=1) for x in (k, v)]
    choices = [lambda: sdpa(q, k, v, is_causal=causal, enable_gqa=True), lambda: sdpa(q, *wide, is_causal=causal)]
    return min(choices, key=lambda call: min(_seconds(call, 1) for _ in range(3)))


def gcn_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Graph convolutions over one CSR matrix, relu between layers."""
    torch, matrix = torch_csr(a)
    product = fastest_product(torch, matrix, a["x"])

    def layer(n: int, x: Any, t: dict[str, Any]) -> Any:
        return torch.nn.functional.linear(product(matrix, x), t[f"w{n}"], t[f"b{n}"])

    return network_torch(a, layer)


def sage_torch(a: dict[str, np.ndarray], combine: str) -> Callable[[], Any]:
    """GraphSAGE over one CSR matrix; a maximum is `torch.sparse.mm` with a reduction."""
    torch, matrix = torch_csr(a)
    extreme = functools.partial(torch.sparse.mm, reduce=combine)
    product = fastest_product(torch, matrix, a["x"]) if combine == "sum" else extreme

    def layer(n: int, x: Any, t: dict[str, Any]) -> Any:
        y = torch.nn.functional.linear(product(matrix, x), t[f"near{n}"], t[f"b{n}"])
        return y.addmm_(x, t[f"self{n}"].T)

    return network_torch(a, layer)


def sage_mean_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    return sage_torch(a, "sum")


def sage_max_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    return sage_torch(a, "amax")


def rgcn_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Relational graph convolutions: one CSR matrix and one dense product for each relation."""
    names = ("indptr", "indices", "data")
    relations = range(sum(name.startswith("indptr") for name in a))
    torch = importlib.import_module("torch")
    matrices = [torch_csr({name: a[f"{name}{r}"] for name in names} | {"shape": a["shape"]})[1] for r in relations]
    product = fastest_product(torch, matrices[0], a["x"])

    def layer(n: int, x: Any, t: dict[str, Any]) -> Any:
        y = torch.nn.functional.linear(x, t[f"self{n}"], t[f"b{n}"])
        for matrix, weight in zip(matrices, t[f"relation{n}"], strict=True):
            y.addmm_(product(matrix, x), weight)
        return y

    return network_torch(a, layer)


def decoder_torch(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Losses of a quantized model on a text."""
    return decoder_losses(a, THREADS)


def encoder_padded(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Embeddings of all texts as one padded batch."""
    return encoders.padded(a, THREADS)


def encoder_by_length(a: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Embeddings of texts in batches of similar length."""
    return encoders.by_length(a, THREADS)


def fastest_product(torch: Any, matrix: Any, x: np.ndarray) -> Callable[[Any, Any], Any]:
    """The faster of torch's two kernels for CSR times dense: MKL's, and its own with a reduction, which balances rows better."""
    b = torch.from_numpy(x)
    choices = [torch.matmul, functools.partial(torch.sparse.mm, reduce="sum")]
    return min(choices, key=lambda call: min(_seconds(lambda: call(matrix, b), 1) for _ in range(5)))


def network_torch(a: dict[str, np.ndarray], layer: Callable[[int, Any, dict[str, Any]], Any]) -> Callable[[], Any]:
    """Layers one after another on a["x"], relu between them; every layer has a bias."""
    torch = importlib.import_module("torch")
    t = {name: torch.from_numpy(array) for name, array in a.items()}

    def run() -> Any:
        x = t["x"]
        with torch.inference_mode():
            for n in range(sum(name.startswith("b") for name in t)):
                x = layer(n, x.relu_() if n else x, t)
        return x

    return run


OPERATIONS = {
    f.__name__: f
    for f in (
        spmm_torch,
        spmm_scipy,
        spmm_mkl,
        bsr_torch,
        sddmm_torch,
        attention_torch,
        gcn_torch,
        sage_mean_torch,
        sage_max_torch,
        rgcn_torch,
        decoder_torch,
        encoder_padded,
        encoder_by_length,
    )
}


def _seconds(call: Callable[[], Any], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def main() -> None:
    """Answer requests until stdin ends."""
    warnings.simplefilter("ignore")
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "case" in request:
            try:
                with np.load(request["file"]) as arrays:
                    call = OPERATIONS[request["case"]](dict(arrays))
                result = np.asarray(_dense(call()))
                np.save(request["file"] + ".out.npy", result)
            except (ImportError, OSError, ValueError) as error:
                print(json.dumps({"missing": f"{type(error).__name__}: {error}"}), flush=True)
                continue
            calls[request["case"]] = call
            print(json.dumps({"ready": True}), flush=True)
        else:
            print(json.dumps({"seconds": _seconds(calls[request["time"]], request["repeat"])}), flush=True)


def _dense(result: Any) -> Any:
    """A result as an array; of a sparse one, its values."""
    if not hasattr(result, "layout"):
        return result
    return (result if str(result.layout) == "torch.strided" else result.values()).numpy()


if __name__ == "__main__":
    main()

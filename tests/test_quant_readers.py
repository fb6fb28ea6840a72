"""Readers of quantized checkpoints against decoders of the formats' own packages, or against plain loops over the layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from heddle.models import ModelError, check_model, open_source
from heddle.models.quant_tensor import QuantInfo, QuantTensor
from heddle.models.weights import TensorSource
from tests.checkpoint_tools import CONFIG, quantize_gptq, words
from tests.model_tools import save_random

K, N = 128, 48


def opened(path: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], **raw: Any) -> TensorSource:
    """The checkpoint of a directory with these tensors and this quantization_config."""
    (path / "config.json").write_text(json.dumps({"quantization_config": config, **raw}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    return open_source(path).checkpoint()


def bits_of(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint8)


def assert_same_bits(checkpoint: TensorSource, expected: torch.Tensor, name: str = "l.weight") -> None:
    """The dequantized matrix, and the one that keeps its codes where a layout holds them, are these values."""
    info, array = checkpoint.tensors[name], checkpoint.read(name)
    assert info.dtype == str(expected.dtype).removeprefix("torch.") == array.dtype.name
    assert info.shape == array.shape == tuple(expected.shape)
    np.testing.assert_array_equal(bits_of(array), bits_of(expected.contiguous().view(torch.uint8).numpy()))
    assert info.quant is not None
    if info.quant.holds:
        tensor = checkpoint.read_quantized(name)
        assert isinstance(tensor, QuantTensor)
        np.testing.assert_array_equal(bits_of(tensor.dequantize()), bits_of(array))
        part = tensor.rows(np.array([5, 0, 7]))
        np.testing.assert_array_equal(bits_of(part.dequantize()), bits_of(array[[5, 0, 7]]))
    else:
        with pytest.raises(KeyError):
            checkpoint.read_quantized(name)


def random_codes(seed: int, bits: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [K, N], zero points and float16 scales [G, N], channels last as AWQ and GPTQ have them."""
    rng = np.random.default_rng(seed)
    codes, zeros = rng.integers(0, 1 << bits, (K, N)), rng.integers(0, 1 << bits, (K // group, N))
    scales = rng.uniform(-0.02, 0.02, (K // group, N)).astype(np.float16)
    return codes, zeros, scales


def decoded(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, index: np.ndarray) -> torch.Tensor:
    """(code - zero) * scale with the rounding of float16 arithmetic, as [N, K]; `index` is the group of each column."""
    difference = torch.from_numpy((codes - zeros[index]).astype(np.float16))
    return (difference * torch.from_numpy(scales)[torch.from_numpy(index)]).t().contiguous()


# ----------------------------------------------------------------------------------------------------------------- AWQ
@pytest.mark.parametrize(
    ("group", "given", "holds"), [(32, 32, "w4-g32-asym"), (64, 64, "w4-g64-asym"), (128, -1, "w4-pc-asym")]
)
@pytest.mark.parametrize("version", ["gemm", "GEMM", "gemv"])
def test_awq(tmp_path: Path, group: int, given: int, holds: str, version: str) -> None:
    codes, zeros, scales = random_codes(group, 4, group)
    config = {"quant_method": "awq", "bits": 4, "group_size": given, "version": version, "zero_point": True}
    if version == "gemv":
        width = -(-scales.shape[0] // 8) * 8
        padded = [np.pad(a, [(0, width - len(a)), (0, 0)]).T for a in (zeros, scales)]
        tensors = {"qweight": words(codes.T, 4, 1), "qzeros": words(padded[0], 4, 1)}
        tensors["scales"] = torch.from_numpy(padded[1].copy())
    else:
        order = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # which channel stands in each place of a word
        places = (np.arange(N).reshape(-1, 8)[:, order]).reshape(-1)
        tensors = {"qweight": words(codes[:, places], 4, 1), "qzeros": words(zeros[:, places], 4, 1)}
        tensors["scales"] = torch.from_numpy(scales)
    stored = {f"l.{name}": tensor for name, tensor in tensors.items()} | {
        "l.bias": torch.ones(N),
        "n.weight": torch.ones(3),
    }
    checkpoint = opened(tmp_path, config, stored)
    assert set(checkpoint.tensors) == {"l.weight", "l.bias", "n.weight"}
    assert_same_bits(checkpoint, decoded(codes, zeros, scales, np.arange(K) // group))
    quant = checkpoint.tensors["l.weight"].quant
    assert (quant.label, quant.holds) == (f"AWQ 4-bit g{group}", holds)
    with pytest.raises(KeyError):
        checkpoint.read("l.qweight")


# ---------------------------------------------------------------------------------------------------------------- GPTQ
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("format", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("order", ["none", "sorted", "act"])
def test_gptq(tmp_path: Path, bits: int, format: str, order: str) -> None:
    codes, zeros, scales = random_codes(bits, bits, 32)
    index = np.arange(K) // 32
    if order == "act":
        index = np.random.default_rng(1).permutation(index)
    stored = (zeros - (format == "gptq")) % (1 << bits)  # version 1 keeps zero points less 1
    tensors = {
        "l.qweight": words(codes, bits, 0),
        "l.qzeros": words(stored, bits, 1),
        "l.scales": torch.from_numpy(scales),
    }
    if order != "none":
        tensors["l.g_idx"] = torch.from_numpy(index.astype(np.int32))
    config = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": order == "act", "sym": False}
    checkpoint = opened(tmp_path, {**config, "checkpoint_format": format}, tensors)
    assert set(checkpoint.tensors) == {"l.weight"}
    assert_same_bits(checkpoint, decoded(codes, zeros, scales, index))
    quant = checkpoint.tensors["l.weight"].quant
    assert quant.holds == ("" if order == "act" else f"w{8 if bits == 8 else 4}-g32-asym")
    assert quant.suggests == ("w8-g32" if order == "act" else "")
    assert quant.label == f"GPTQ {bits}-bit g32" + (" act-order" if order == "act" else "")


@pytest.mark.parametrize(("bits", "holds"), [(3, "w4-pc"), (4, "w4-pc"), (8, "w8-pc")])
def test_gptq_symmetric_rows(tmp_path: Path, bits: int, holds: str) -> None:
    codes, zeros, scales = random_codes(bits, bits, K)
    zeros[:] = 1 << (bits - 1)
    tensors = {
        "l.qweight": words(codes, bits, 0),
        "l.qzeros": words(zeros - 1, bits, 1),
        "l.scales": torch.from_numpy(scales),
    }
    config = {"bits": bits, "group_size": -1, "sym": True}
    (tmp_path / "quantize_config.json").write_text(json.dumps(config))  # as AutoGPTQ did before transformers
    checkpoint = opened(tmp_path, {}, tensors)
    assert_same_bits(checkpoint, decoded(codes, zeros, scales, np.zeros(K, int)))
    assert checkpoint.tensors["l.weight"].quant.holds == holds
    assert checkpoint.read_quantized("l.weight").zeros == 1 << (bits - 1)


@pytest.mark.parametrize("order", ["none", "given", "act"])
def test_gptq_with_a_shorter_last_group(tmp_path: Path, order: str) -> None:
    """As where the columns of down_proj are no multiple of 128."""
    group = 3 * K // 4
    codes, zeros, scales = random_codes(4, 4, K // 2)  # two groups
    index = np.arange(K) // group
    if order == "act":
        index = np.random.default_rng(1).permutation(index)
    tensors = {
        "l.qweight": words(codes, 4, 0),
        "l.qzeros": words((zeros - 1) % 16, 4, 1),
        "l.scales": torch.from_numpy(scales),
    }
    if order != "none":
        tensors["l.g_idx"] = torch.from_numpy(index.astype(np.int32))
    checkpoint = opened(tmp_path, {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": False}, tensors)
    assert_same_bits(checkpoint, decoded(codes, zeros, scales, index))
    quant = checkpoint.tensors["l.weight"].quant
    assert quant == QuantInfo(f"GPTQ 4-bit g{group}" + (" act-order" if order == "act" else ""), "", "w8-g32")


# -------------------------------------------------------------------------------------------------- compressed-tensors
def compress(
    format: str, args: QuantizationArgs, dtype: torch.dtype, seed: int = 0
) -> tuple[dict[str, Any], torch.Tensor]:
    """What the package stores of a random matrix, and what it decodes that to."""
    torch.manual_seed(seed)
    weight = torch.randn(N, K, dtype=torch.float32) * 0.02
    if args.strategy == "group":
        parts = weight.reshape(N, -1, args.group_size)
        low, high = parts.amin(-1), parts.amax(-1)
    elif args.strategy == "channel":
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    elif args.strategy == "block":
        rows, columns = args.block_structure
        parts = torch.nn.functional.pad(weight, (0, -K % columns, 0, -N % rows))
        parts = parts.reshape(-(-N // rows), rows, -(-K // columns), columns)
        low, high = parts.amin((1, 3)), parts.amax((1, 3))
    else:
        low, high = weight.amin().reshape(1), weight.amax().reshape(1)
    scale, zero = calculate_qparams(low.to(dtype), high.to(dtype), args)
    state = {"weight": weight.to(dtype), "weight_scale": scale.to(dtype), "weight_zero_point": zero}
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(format)
    stored = compressor.compress(dict(state), scheme)
    if args.symmetric:
        stored.pop("weight_zero_point", None)
    return stored, compressor.decompress(dict(stored), scheme)["weight"]


INTEGERS = [
    ("pack-quantized", 4, "group", 32, True, "w4-g32"),
    ("pack-quantized", 4, "group", 64, False, "w4-g64-asym"),
    ("pack-quantized", 4, "channel", None, True, "w4-pc"),
    ("pack-quantized", 8, "group", 128, True, "w8-pc"),
    ("pack-quantized", 8, "channel", None, False, "w8-pc-asym"),
    ("pack-quantized", 2, "group", 32, True, "w4-g32"),
    ("int-quantized", 8, "channel", None, True, "w8-pc"),
    ("int-quantized", 8, "tensor", None, True, "w8-pc"),
    ("int-quantized", 8, "channel", None, False, "w8-pc-asym"),
    ("naive-quantized", 8, "group", 16, True, ""),
]


@pytest.mark.parametrize(("format", "bits", "strategy", "group", "symmetric", "holds"), INTEGERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_compressed_integers(
    tmp_path: Path, format: str, bits: int, strategy: str, group: int | None, symmetric: bool, holds: str, dtype: Any
) -> None:
    args = QuantizationArgs(num_bits=bits, type="int", strategy=strategy, group_size=group, symmetric=symmetric)
    stored, expected = compress(format, args, dtype)
    tensors = {f"l.{name}": tensor for name, tensor in stored.items()}
    tensors |= {"l.input_scale": torch.ones(1), "a.k_scale": torch.ones(1), "head.weight": torch.ones(2, 2)}
    config = {"quant_method": "compressed-tensors", "format": format, "ignore": ["head"]}
    config["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}}
    checkpoint = opened(tmp_path, config, tensors)
    assert set(checkpoint.tensors) == {"l.weight", "head.weight"}
    assert_same_bits(checkpoint, expected)
    assert checkpoint.tensors["l.weight"].quant.holds == holds


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_compressed_floats(tmp_path: Path, strategy: str, dtype: Any) -> None:
    block = [32, 50] if strategy == "block" else None  # neither divides its side
    args = QuantizationArgs(num_bits=8, type="float", strategy=strategy, block_structure=block)
    stored, expected = compress("float-quantized", args, dtype)
    config = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    config["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}}
    checkpoint = opened(tmp_path, config, {f"l.{name}": tensor for name, tensor in stored.items()})
    assert_same_bits(checkpoint, expected)


# ----------------------------------------------------------------------------------------------------------------- FP8
@pytest.mark.parametrize("type", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(
    ("method", "scale", "shape", "label"),
    [
        ("fp8", "weight_scale_inv", (3, 4), "in blocks of 16x32"),
        ("fp8", "weight_scale_inv", (), "per tensor"),
        ("fp8", "weight_scale", (1,), "per tensor"),
        ("modelopt", "weight_scale", (), "per tensor"),
        ("fbgemm_fp8", "weight_scale", (N, 1), "per channel"),
    ],
)
def test_float8(tmp_path: Path, type: torch.dtype, method: str, scale: str, shape: tuple[int, ...], label: str) -> None:
    torch.manual_seed(0)
    weight, factor = (torch.randn(N, K) * 30).to(type), torch.rand(shape) * 0.01 + 1e-4
    tensors = {
        "l.weight": weight,
        f"l.{scale}": factor,
        "l.input_scale": torch.ones(()),
        "l.input_scale_ub": torch.ones(1),
    }
    config = {"quant_method": method, "weight_block_size": [16, 32] if len(shape) == 2 and shape[1] > 1 else None}
    checkpoint = opened(tmp_path, config, tensors, torch_dtype="bfloat16")
    grid = factor if factor.ndim == 2 else factor.reshape(1, 1)
    expected = Fp8Dequantize(None)._dequantize_one(weight, grid, torch.bfloat16)
    assert_same_bits(checkpoint, expected)
    quant = checkpoint.tensors["l.weight"].quant
    assert quant.label == f"FP8 {'E4M3' if type == torch.float8_e4m3fn else 'E5M2'} {label}"
    assert quant.suggests == ("w8-g32" if "blocks" in label else "w8-pc")
    assert set(checkpoint.tensors) == {"l.weight"}


# ------------------------------------------------------------------------------------------------------------ refusals
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
CT = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes.*--quant"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "aqlm"}, '"aqlm" cannot be read.*awq, compressed-tensors'),
        ({"quant_method": None, "bits": 4}, '"None" cannot be read'),
        ({**GPTQ, "checkpoint_format": "marlin"}, '"marlin" cannot be read'),
        ({**AWQ, "bits": 8, "version": "gemv_fast"}, "(?s)2 problems.*8 bits.*gemv_fast"),
        ({**AWQ, "group_size": "x"}, "group_size is 'x'"),
        ({**AWQ, "zero_point": False}, "without zero points"),
        ({**CT, "format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
        (
            {**CT, "transform_config": {"a": 1}, "sparsity_config": {"format": "sparse-24-bitmask"}},
            "(?s)transform.*24-bit",
        ),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4"),
        ([1], "must be an object"),
    ],
)
def test_unknown_formats_are_one_clear_error(tmp_path: Path, config: Any, says: str) -> None:
    with pytest.raises(ModelError, match=f"(?s){says}"):
        opened(tmp_path, config, {"l.weight": torch.ones(2, 2)})
    assert open_source(tmp_path).config() == {}, "the config is that of the floats, so that the rest can be checked too"


def test_tensors_that_do_not_fit_together_are_all_named(tmp_path: Path) -> None:
    def some(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    tensors = {"a.qweight": some(16, 48), "a.qzeros": some(4, 5), "a.scales": some(4, 48, dtype=torch.float16)}
    tensors |= {"b.qweight": some(16, 48), "b.qzeros": some(4, 6)}
    tensors |= {"c.qweight": some(16, 48), "c.qzeros": some(4, 6), "c.scales": some(4, 48, dtype=torch.float16)}
    tensors |= {"c.g_idx": some(128) + 4}
    with pytest.raises(ModelError) as caught:
        opened(tmp_path, GPTQ, tensors)
    assert len(caught.value.problems) == 3
    assert all(f'"{site}' in str(caught.value) for site in ("a", "b", "c.g_idx"))
    with pytest.raises(ModelError, match='AWQ tensors of "a"'):
        opened(tmp_path, AWQ, {"a.qweight": some(128, 6)})
    packed = {
        "a.weight_packed": some(48, 17),
        "a.weight_shape": torch.tensor([48, 128]),
        "a.weight_scale": torch.ones(48, 1),
    }
    with pytest.raises(ModelError, match="17 words hold rows of 128"):
        opened(tmp_path, CT, packed)
    floats = {
        "a.weight": torch.ones(48, 128).to(torch.float8_e4m3fn),
        "b.weight": torch.ones(4, 4).to(torch.float8_e5m2),
    }
    with pytest.raises(ModelError, match=r"(?s)\[7, 7\] scales for \[48, 128\].*has 0 scales"):
        opened(tmp_path, {"quant_method": "fp8"}, floats | {"a.weight_scale_inv": torch.ones(7, 7)})


def test_check_says_what_becomes_of_the_weights_and_all_that_is_wrong(tmp_path: Path) -> None:
    save_random(tmp_path, CONFIG)
    quantize_gptq(tmp_path)
    problems = check_model(tmp_path)
    assert not [problem for problem in problems if problem.severity == "error"]
    raw = json.loads((tmp_path / "config.json").read_text())
    raw |= {"quantization_config": {"quant_method": "bitsandbytes"}, "hiden_size": 3}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    found = [problem.what for problem in check_model(tmp_path) if problem.severity == "error"]
    assert found == ['unknown config key "hiden_size"', 'weights quantized by "bitsandbytes" cannot be read']


def test_the_identity_covers_how_tensors_are_decoded(tmp_path: Path) -> None:
    codes, zeros, scales = random_codes(0, 4, 32)
    tensors = {"l.qweight": words(codes, 4, 0), "l.qzeros": words(zeros, 4, 1), "l.scales": torch.from_numpy(scales)}
    old = tmp_path / "quantize_config.json"
    old.write_text(json.dumps({"bits": 4, "group_size": 32}))
    first = opened(tmp_path, {}, tensors)
    identity = first.identity()
    assert identity == open_source(tmp_path).checkpoint().identity()
    old.write_text(json.dumps({"bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}))
    assert open_source(tmp_path).checkpoint().identity() != identity


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_there_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    odd = st.sampled_from([None, 0, -1, 3, "x", [], {}, [1, 2], {"a": 1}, True, 1e9])
    method = data.draw(st.sampled_from(["awq", "gptq", "compressed-tensors", "fp8"]))
    keys = [
        "bits",
        "group_size",
        "version",
        "format",
        "config_groups",
        "weight_block_size",
        "sparsity_config",
        "desc_act",
    ]
    config = data.draw(st.dictionaries(st.sampled_from(keys), odd)) | {"quant_method": method}
    config["config_groups"] = {"g": data.draw(odd), "h": {"weights": {"block_structure": data.draw(odd)}}}
    parts = ["qweight", "qzeros", "scales", "g_idx", "weight", "weight_scale", "weight_packed", "weight_shape"]
    parts += ["weight_zero_point", "weight_scale_inv", "weight_g_idx"]
    shapes = st.sampled_from(
        [(), (0,), (1,), (4,), (32,), (4, 4), (4, 32), (32, 4), (32, 1), (1, 32), (0, 4), (2, 2, 2)]
    )
    dtypes = st.sampled_from([torch.int32, torch.int8, torch.float16, torch.float8_e4m3fn, torch.int64])
    tensors = {
        f"l.{part}": torch.ones(data.draw(shapes)).to(data.draw(dtypes))
        for part in data.draw(st.lists(st.sampled_from(parts), unique=True, min_size=1))
    }
    try:
        checkpoint = opened(tmp_path, config, tensors)
    except ModelError:
        return
    for name, info in checkpoint.tensors.items():
        assert checkpoint.read(name).shape == info.shape

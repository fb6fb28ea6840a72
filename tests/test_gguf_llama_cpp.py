"""GGUF against llama.cpp itself, where llama-cpp-python is installed: its quantizer, its tokens, and its view of our files."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as T
from gguf import GGUFReader
from gguf.quants import dequantize

import heddle
from heddle.compiler.driver import compile_model
from heddle.models.source import open_source
from heddle.runtime.artifact import open_artifact
from tests.gguf_cases import CASES, reference, written
from tests.gguf_tools import write_tinydoc
from tests.model_tools import relative_error
from tests.test_gguf_model import KEPT, PROMPTS, TOKENS, compared

pytestmark = pytest.mark.slow


def quantized_by_llama_cpp(llama_cpp: Any, folder: Path, name: str, *, pure: bool = False) -> Path:
    """The example model as llama.cpp's quantizer makes it; all matrices of one type where they are `pure`."""
    original, path = folder / "f32.gguf", folder / f"{name}-{pure}.gguf"
    if not original.exists():
        write_tinydoc(original, lambda tensor: T.F32)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}"), 2, pure
    assert llama_cpp.llama_model_quantize(bytes(original), bytes(path), ctypes.byref(params)) == 0
    return path


@pytest.fixture
def llama_cpp() -> Any:
    return pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


@pytest.mark.parametrize(
    "name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "BF16"]
)
def test_values_of_llama_cpps_quantizer(llama_cpp: Any, tmp_path: Path, name: str) -> None:
    path = quantized_by_llama_cpp(llama_cpp, tmp_path, name)
    checkpoint = open_source(path).checkpoint()
    stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    for layer in range(4):
        for ours, theirs in (("self_attn.v_proj", "attn_v"), ("mlp.down_proj", "ffn_down"), ("mlp.up_proj", "ffn_up")):
            tensor = stored[f"blk.{layer}.{theirs}.weight"]
            expected = dequantize(tensor.data, tensor.tensor_type)
            found = checkpoint.read(f"model.layers.{layer}.{ours}.weight").astype(np.float32)
            assert np.array_equal(found, expected), (ours, tensor.tensor_type)


@pytest.mark.parametrize("name", ["Q4_K_M", "Q5_K_M"])
def test_kept_k_types(llama_cpp: Any, tmp_path: Path, name: str) -> None:
    """Scales of K types are float16 numbers times 6 bits, which the layouts round to float16."""
    path = quantized_by_llama_cpp(llama_cpp, tmp_path, name, pure=True)
    kept = compared(path, compile_model(path, tmp_path / "kept.heddle", quant="keep-a16", kv_dtype="float32"))
    assert kept < KEPT


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0"])
def test_tokens_are_those_of_llama_cpp(llama_cpp: Any, tmp_path: Path, name: str) -> None:
    """Text to ids, and 32 greedy tokens of five prompts. llama.cpp rounds activations to 8 bits, which changes none of these."""
    path = quantized_by_llama_cpp(llama_cpp, tmp_path, name)
    artifact = compile_model(path, tmp_path / "a.heddle", quant="none")
    assert open_artifact(artifact).manifest.caches[0].dtype == "float16"  # that of the floats behind the codes
    llm = heddle.LLM(artifact, threads=2)
    prompts = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
    outputs = llm.generate(prompts, heddle.SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True))
    reference = llama_cpp.Llama(str(path), n_ctx=512, n_threads=2, verbose=False)
    for prompt, ids, output in zip(PROMPTS, prompts, outputs, strict=True):
        assert reference.tokenize(prompt.encode(), add_bos=False, special=True) == ids
        assert _greedy(llama_cpp, reference, ids) == list(output.outputs[0].token_ids)


NOT_READ = {"bert": "wants a tokenizer", "command-r": "has norms of q and k in models of 64 layers only"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_READ])
def test_llama_cpp_reads_our_files_as_transformers_reads_the_original(
    llama_cpp: Any, tmp_path: Path, name: str
) -> None:
    """The files that the tests of families read are what llama.cpp understands by them. It looks up gelu in a float16 table."""
    import torch
    import transformers

    config, tensors = reference(name)
    case = CASES[name]
    torch.manual_seed(0)
    kind = getattr(transformers, case.model) if case.model else transformers.AutoModelForCausalLM
    model = (kind(config) if case.model else kind.from_config(config, attn_implementation="eager")).eval()
    small = {key: (0.3 * array).astype(np.float32) for key, array in tensors.items()}
    head = {"embed_out.weight": "lm_head.weight"}
    state = {head.get(key, key): torch.from_numpy(array) for key, array in small.items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    model.tie_weights()
    tokens = [1, 5, 9, 2, *range(10, 40)]
    with torch.no_grad():
        output = model(torch.tensor([tokens]))
    expected = (output.last_hidden_state if case.model else output.logits)[0].numpy()
    path = written(tmp_path, name, small, tokenizer__ggml__model="none")
    assert relative_error(_all_rows(llama_cpp, path, tokens, expected.shape, embed=bool(case.model)), expected) < 2e-3


def _all_rows(llama_cpp: Any, path: Path, tokens: list[int], shape: tuple[int, int], *, embed: bool) -> np.ndarray:
    """llama.cpp's logits, or hidden states, of every position."""
    model = llama_cpp.llama_model_load_from_file(bytes(path), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads = 128, 64, 64, 2
    params.type_k = params.type_v = params.flash_attn_type = params.pooling_type = 0  # float32, none
    params.embeddings = embed
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(64, 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    assert llama_cpp.llama_decode(context, batch) == 0
    get = llama_cpp.llama_get_embeddings_ith if embed else llama_cpp.llama_get_logits_ith
    rows = [np.ctypeslib.as_array(get(context, i), (shape[1],)).copy() for i in range(shape[0])]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.stack(rows)


def _greedy(llama_cpp: Any, model: Any, prompt: list[int]) -> list[int]:
    model.reset()
    model.eval(prompt)
    found: list[int] = []
    for _ in range(TOKENS):
        logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        found.append(int(np.argmax(np.ctypeslib.as_array(logits, (4096,)))))
        model.eval(found[-1:])
    return found

"""The parts of the side-by-side benchmark that need no peer: checkpoints, rates, roofs, ratios, the table, a worker's requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from heddle.models.registry import architecture
from heddle.runtime.tokenizer import Tokenizer
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # where a script finds its neighbours

import checkpoint
import side_by_side
import systems

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 300,
    "tie_word_embeddings": True,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "hidden_act": "silu",
    "torch_dtype": "float16",
}
LLAMA = QWEN | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "head_dim": 16,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("config", [QWEN, LLAMA], ids=["qwen2", "llama"])
def test_checkpoint_has_the_tensors_that_models_read(config: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.make_checkpoint(config, tmp_path)
    made = load_file(tmp_path / checkpoint.FILE)
    model = architecture(json.loads((tmp_path / "config.json").read_text()))
    read = {spec.source[0]: spec.shape for spec in model.weights(model.config(config)).values()}
    assert {name: array.shape for name, array in made.items()} == read
    assert {array.dtype for array in made.values()} == {np.dtype(np.float16)}
    matrices = sum(array.size for array in made.values() if array.ndim == 2)
    assert checkpoint.weights_a_token(config) == matrices - (0 if config["tie_word_embeddings"] else 300 * 32)


def test_checkpoint_is_seeded_and_kept(tmp_path: Path) -> None:
    first, second = (checkpoint.make_checkpoint(QWEN, tmp_path / name) / checkpoint.FILE for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    before = first.stat().st_mtime_ns
    checkpoint.make_checkpoint(QWEN, tmp_path / "a")
    assert first.stat().st_mtime_ns == before
    checkpoint.make_checkpoint(QWEN | {"num_hidden_layers": 1}, tmp_path / "a")
    assert first.stat().st_size < second.stat().st_size


def test_tokenizer_has_the_vocabulary_and_every_byte(tmp_path: Path) -> None:
    checkpoint.make_checkpoint(QWEN, tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert len(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]) == 300
    ids = tokenizer.encode("naïve\n", True)
    assert len(ids) == len("naïve\n".encode())
    assert tokenizer.decode(ids) == "naïve\n"


def test_rates() -> None:
    decode, batch, _, prefill = (side_by_side.OPERATIONS[i] for i in (0, 2, 1, 3))
    assert decode.rate({"first": 9.0, "rest": 0.5, "tokens": decode.count}) == pytest.approx(64)
    assert batch.rate({"first": 9.0, "rest": 0.5, "tokens": batch.count}) == pytest.approx(256)
    assert prefill.rate({"first": 0.25, "rest": 0.0, "tokens": 1}) == pytest.approx(2048)
    with pytest.raises(systems.Unavailable, match="generated 5 tokens of 33"):
        decode.rate({"first": 9.0, "rest": 0.5, "tokens": 5})


def test_roof_counts_weights_and_the_kv_of_the_tokens_before() -> None:
    decode = side_by_side.Operation("decode", 1, 100, 20)
    assert side_by_side.roof(decode, streamed=890, kv_bytes_a_token=1, rate=5000) == pytest.approx(5)
    assert checkpoint.kv_elements(QWEN) == 2 * 2 * 2 * 8
    assert checkpoint.kv_elements(LLAMA) == 2 * 2 * 2 * 16


def test_table_names_every_system_and_compares_round_by_round() -> None:
    operations = side_by_side.OPERATIONS[:1]
    ours = side_by_side.Result(
        "heddle", "heddle", rates={"decode": [20.0, 30.0, 400.0]}, peak_memory=50, of_roof={"decode": [0.5]}
    )
    slow = side_by_side.Result("slow", "peer", rates={"decode": [5.0, 5.0, 5.0]}, peak_memory=100)
    fast = side_by_side.Result("fast", "peer", rates={"decode": [10.0, 10.0, 100.0]}, peak_memory=200)
    absent = side_by_side.Result("absent", "peer", reason="does not build", rates={"decode": [1000.0]})
    sketch = side_by_side.Result("sketch", "prototype", rates={"decode": [40.0, 60.0, 800.0]}, peak_memory=25)
    results = [ours, slow, fast, absent, sketch]
    assert side_by_side.best_peer(results, "decode") is fast
    assert side_by_side.ratio(ours, fast, "decode") == pytest.approx(3)
    text = side_by_side.table(results, operations)
    assert "absent: not measured: does not build" in text
    assert "best peer, decode: fast" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("heddle")]
    assert rows[0][1] == "30.0"
    assert rows[1][1] == "50%"
    assert rows[2][1:] == ["3.00", "0.50"]
    assert rows[3][1:] == ["0.50", "2.00"]


def test_table_without_peers() -> None:
    ours = side_by_side.Result("heddle", "heddle", rates={"decode": [2.0]})
    assert "ratio" not in side_by_side.table([ours], side_by_side.OPERATIONS[:1])


WORKER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import protocol

class Loaded:
    def __init__(self, folder, variant, threads, context):
        print("a library's message")
    def generate(self, prompts, count):
        if count > 3:
            raise ValueError("too many")
        return protocol.timed(lambda: None, count)

protocol.main(lambda checkpoint, folder, variant: {"stored": len(variant)}, Loaded)
"""


def test_protocol_keeps_messages_apart_and_reports_errors() -> None:
    command = [sys.executable, "-c", WORKER, str(systems.PEERS)]
    done = subprocess.run([*command, "prepare", "a", "b", "four"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"stored": 4}
    requests = [{"prompts": [[1]], "count": 3}, {"prompts": [[1]], "count": 4}, {"memory": True}]
    text = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([*command, "serve", "b", "v"], input=text, capture_output=True, text=True, check=True)
    loaded, timing, failed, memory = map(json.loads, done.stdout.splitlines())
    assert loaded["seconds"] >= 0
    assert timing["tokens"] == 3
    assert failed == {"error": "ValueError: too many"}
    assert memory["peak"] > 1 << 20
    assert "a library's message" in done.stderr


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    code = "import sys; print('noise', file=sys.stderr); sys.exit('Error: no such compiler\\n')"
    with pytest.raises(systems.Unavailable, match=r"^Error: no such compiler \(exit code 1; all messages: .*log"):
        systems.output_of([sys.executable, "-c", code], tmp_path / "log")
    assert "noise" in (tmp_path / "log").read_text()
    assert systems.python_of(systems.Environment(), tmp_path) == sys.executable


def test_a_worker_answers_and_says_what_it_shared_its_cores_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleeper_worker.py").write_text(WORKER.replace("sys.argv.pop(1)", repr(str(systems.PEERS))))
    monkeypatch.setattr(systems, "PEERS", tmp_path)
    system = systems.System("sleeper", "sleeper", "v", 2)
    core = min(os.sched_getaffinity(0))
    with systems.Worker(system, tmp_path, tmp_path, [core], 64) as worker:
        assert worker.load_seconds >= 0
        assert worker.ask(prompts=[[1]], count=2)["tokens"] == 2
        assert 0 <= worker.disturbance <= 1
        with pytest.raises(systems.Unavailable, match="ValueError: too many"):
            worker.ask(prompts=[[1]], count=4)
        assert worker.ask(memory=True)["peak"] > 1 << 20
        worker.process.kill()
        with pytest.raises(systems.Unavailable, match="ended with code -9"):
            worker.ask(memory=True)

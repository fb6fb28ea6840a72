"""What grammars cost a batch: steps and tokens per second of the 0.5B shape, with them and without, in turns.

    python benchmarks/structured.py --threads 2 --json results.json

Qwen2.5-0.5B shape, random weights, w4a8; all requests sample with temperature 1, so that texts are as random as grammars let them
be. The tokenizer is byte-level BPE with as many tokens as the model knows, trained on the text files of this Python installation
(`--tokenizer` takes another). Rows:

    text     any text: every token of the vocabulary that is text is allowed
    string   an array of strings of any length: what a mask costs inside of a text
    bounded  an array of strings of at most 60 characters: near the bound most of the vocabulary must be walked for a mask
    records  an array of objects in the model's own layout: names are forced, and jump
    tight    the same on one line

`step` compares steps of eight rows, `tokens` whole generations, where jumps save steps. The mask thread is left to the system
beside the threads of compiled code; where the process has no core more than those, it takes its time from them.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_BIND_THREADS", "0")

import report
import tokenizers
from checkpoint import make_checkpoint
from model import MODELS
from tokenizers import decoders, models, pre_tokenizers, trainers

from heddle import LLM, SamplingParams

MODEL = "qwen2.5-0.5b"
SOURCE_BYTES = 150_000_000
RECORD = {
    "type": "object",
    "properties": {
        "identifier": {"type": "integer", "minimum": 0, "maximum": 100000},
        "description": {"type": "string", "pattern": "^[a-z]{3,9}( [a-z]{3,9}){2,6}$"},
        "category": {"enum": ["attention", "embedding", "normalization"]},
        "measurements": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "maxItems": 4},
    },
    "required": ["identifier", "description", "category", "measurements"],
    "additionalProperties": False,
}
WAYS: dict[str, dict[str, Any] | None] = {
    "free": None,
    "text": {"regex": "(?s:.)*"},
    "string": {"json": {"type": "array", "items": {"type": "string"}, "minItems": 1000}},
    "bounded": {"json": {"type": "array", "items": {"type": "string", "maxLength": 60}, "minItems": 1000}},
    "records": {"json": {"type": "array", "items": RECORD, "minItems": 1000}},
    "tight": {"json": {"type": "array", "items": RECORD, "minItems": 1000}, "disable_any_whitespace": True},
}


def texts() -> Iterator[str]:
    """Texts of this Python installation, up to SOURCE_BYTES."""
    left = SOURCE_BYTES
    roots = {sysconfig.get_paths()[name] for name in ("stdlib", "purelib")}
    for path in sorted(path for root in roots for path in Path(root).rglob("*.py")):
        size = path.stat().st_size
        if size < 2_000_000 and left > size:
            left -= size
            yield path.read_text("utf-8", errors="replace")


def train_tokenizer(vocab: int, path: Path) -> None:
    """Byte-level BPE of at most `vocab` tokens, split as Qwen's are; takes a minute or two."""
    backend = tokenizers.Tokenizer(models.BPE())
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    backend.save(str(path))


def prepare(envs: Path, given: Path | None) -> Path:
    """The checkpoint of the shape with a tokenizer whose tokens are text."""
    folder = make_checkpoint(MODELS[MODEL], envs / "checkpoints" / f"{MODEL}-text")
    trained = envs / "bpe.json"
    if given is None and not trained.is_file():
        print("training a tokenizer", file=sys.stderr, flush=True)
        train_tokenizer(MODELS[MODEL]["vocab_size"], trained)
    shutil.copyfile(given or trained, folder / "tokenizer.json")
    return folder


class Run:
    """One generation of a batch: seconds of its steps with one row each, and tokens per second of all of it."""

    def __init__(self, llm: LLM, structured: dict[str, Any] | None, batch: int, tokens: int, seed: int) -> None:
        params = [
            SamplingParams(
                structured=structured, max_tokens=tokens, seed=seed * batch + i, ignore_eos=structured is None
            )
            for i in range(batch)
        ]
        prompts = [[100 + seed, 200 + i, *range(300, 330)] for i in range(batch)]
        before, start = vars(llm.engine.stats.decode).copy(), time.perf_counter()
        outputs = llm.generate(prompts, params, progress=False)
        seconds = time.perf_counter() - start
        done = sum(len(output.outputs[0].token_ids) for output in outputs)
        if done < batch * tokens:
            raise SystemExit(f"{structured}: {done} tokens of {batch * tokens}; the grammar should go on")
        self.tokens = done / seconds
        after = llm.engine.stats.decode
        self.steps = after.steps - before["steps"]
        self.step = (after.seconds - before["seconds"]) / self.steps
        self.sampling = (after.sample_seconds - before["sample_seconds"]) / self.steps


def main() -> None:
    """Print a row for each grammar, and write JSON where asked."""
    parser = report.parser(__doc__, rounds=8)
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "heddle-bench", help="where models live")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to use instead")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each text")
    options = parser.parse_args()
    _, about = report.heading(options, model=MODEL, batch=str(options.batch))
    options.envs.mkdir(parents=True, exist_ok=True)
    source = prepare(options.envs, options.tokenizer)
    llm = LLM(source, "w4a8", threads=options.threads, kv_memory="1GB", prefix_cache=False)
    found: dict[str, list[Run]] = {name: [] for name in WAYS}
    for turn in range(-1, options.rounds):
        names = list(WAYS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run = Run(llm, WAYS[name], options.batch, options.tokens, turn + 1)
            if turn >= 0:  # the first round compiles grammars and fills their caches
                found[name].append(run)
    results = []
    print(f"{'':10}{'step ms':>9}{'sampling':>10}{'overhead':>10}{'steps':>7}{'tokens/s':>10}{'speed':>8}")
    for name, runs in found.items():
        pairs = list(zip(runs, found["free"], strict=True))
        row = {
            "way": name,
            "step_ms": statistics.median(r.step for r in runs) * 1e3,
            "sampling_ms": statistics.median(r.sampling for r in runs) * 1e3,
            "overhead": statistics.median(r.step / free.step for r, free in pairs) - 1,
            "steps": statistics.median(r.steps for r in runs),
            "tokens": statistics.median(r.tokens for r in runs),
            "speed": statistics.median(r.tokens / free.tokens for r, free in pairs),
        }
        results.append(row)
        step, sampling, overhead, steps, tokens, speed = list(row.values())[1:]
        print(f"{name:10}{step:9.2f}{sampling:10.2f}{overhead:10.1%}{steps:7.0f}{tokens:10.1f}{speed:8.2f}")
    report.write(options, about, results)


if __name__ == "__main__":
    main()

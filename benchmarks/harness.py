"""lm-eval's local-completions against the server, on a small task of local files, checked against the model itself.

    python benchmarks/harness.py

Installs lm-eval in a virtual environment of its own (below `--envs`) and serves examples/tinydoc (or `--model`). Two tasks are
made of the project's documentation: which of two texts goes on from a beginning (by log probabilities of prompts), and the words
that follow (by greedy generation). Both must come out as the model says in this process. Nothing is downloaded but packages.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from served import Served
from systems import Environment, python_of

from heddle import LLM, AsyncLLM, SamplingParams

ROOT = Path(__file__).parents[1]
LM_EVAL = Environment("lm-eval", ("lm-eval[api]==0.4.13", "transformers"))
DOCS, HEAD, TAIL, TOKENS = 40, 20, 6, 12
TOLERANCE = 1e-3
"""Of a sum of log probabilities: that of the server's answer goes through its decimal form."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A beginning, two texts that may follow (`answer` is the true one), and what the model has to say to them."""

    context: str
    choices: tuple[str, str]
    answer: int
    logprobs: tuple[float, float] = (0.0, 0.0)
    text: str = ""


def make_cases(llm: LLM) -> list[Case]:
    """Parts of the documentation, with the model's own results."""
    words = " ".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))).split()
    rng, cases = np.random.default_rng(0), list[Case]()
    while len(cases) < DOCS:
        answer, (at, other) = int(rng.integers(2)), rng.integers(0, len(words) - HEAD - TAIL, 2).tolist()
        context = " ".join(words[at : at + HEAD])
        tails = [" ".join(words[start + HEAD : start + HEAD + TAIL]) for start in (at, other)]
        choices = (tails[0], tails[1]) if answer == 0 else (tails[1], tails[0])
        scores = (score(llm, context, f" {choices[0]}"), score(llm, context, f" {choices[1]}"))
        (output,) = llm.generate(context, SamplingParams(temperature=0.0, max_tokens=TOKENS, stop="\n"))
        if text := output.outputs[0].text:  # one that ends at once says nothing about the server's
            cases.append(Case(context, choices, answer, scores, text))
    return cases


def score(llm: LLM, context: str, text: str) -> float:
    """The log probability of a text after another, as lm-eval splits them: what the tokens of the first make of the whole."""
    tokenizer = llm.needed_tokenizer()
    ids, start = tokenizer.encode(context + text), len(tokenizer.encode(context))
    (logits,) = llm.forward([ids])
    rows = logits[start - 1 : -1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return float(rows[np.arange(len(rows)), ids[start:]].sum())


def write_tasks(cases: list[Case], folder: Path) -> None:
    """The cases as two tasks of lm-eval."""
    lines = [{"context": c.context, "choices": list(c.choices), "answer": c.answer, "target": c.text} for c in cases]
    data = folder / "cases.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)) + "\n")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{context}}",
    }
    choice = {
        "task": "heddle_choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    text = {
        "task": "heddle_text",
        "output_type": "generate_until",
        "doc_to_target": "{{target}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": TOKENS, "do_sample": False, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match"}],
    }
    for task in (choice, text):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(common | task))  # which is YAML, too


def evaluate(python: str, url: str, tokenizer: Path, folder: Path) -> tuple[dict[str, Any], list[list[float]]]:
    """The results of the tasks by name, and the log probabilities of the choices of each case."""
    arguments = {
        "base_url": f"{url}/v1/completions",
        "model": "bench",
        "tokenizer": str(tokenizer),
        "tokenizer_backend": "huggingface",
        "num_concurrent": 4,
    }
    command = [python, "-m", "lm_eval", "--model", "local-completions", "--tasks", "heddle_choice,heddle_text"]
    command += ["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())]
    command += ["--include_path", str(folder), "--output_path", str(folder / "out"), "--log_samples"]
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"lm-eval failed with code {done.returncode}:\n{done.stderr[-2000:]}")
    (results,) = (folder / "out").rglob("results_*.json")
    (samples,) = (folder / "out").rglob("samples_heddle_choice_*.jsonl")
    entries = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda e: e["doc_id"])
    found = [[float(response[0][0]) for response in entry["resps"]] for entry in entries]
    return json.loads(results.read_text())["results"], found


def compare(
    cases: list[Case], results: dict[str, Any], logprobs: list[list[float]]
) -> tuple[dict[str, float], list[str]]:
    """The figures, and what differs from the model's own."""
    expected = np.array([case.logprobs for case in cases])
    difference = float(np.abs(expected - np.array(logprobs)).max())
    accuracy = float(np.mean([int(np.argmax(case.logprobs)) == case.answer for case in cases]))
    figures = {
        "accuracy": results["heddle_choice"]["acc,none"],
        "accuracy of the model itself": accuracy,
        "largest difference of a log probability": difference,
        "exact match": results["heddle_text"]["exact_match,none"],
    }
    problems = []
    if difference > TOLERANCE:
        problems.append(f"log probabilities differ by {difference:g}")
    if abs(figures["accuracy"] - accuracy) > 1e-9:
        problems.append(f"the accuracy is {figures['accuracy']}, the model's own is {accuracy}")
    if figures["exact match"] != 1.0:
        problems.append(f"{figures['exact match']:.0%} of the texts are the model's own")
    return figures, problems


def run(model: Path, envs: Path, threads: int = 1) -> tuple[dict[str, float], list[str]]:
    """All of it: figures, and what is wrong with them."""
    envs.mkdir(parents=True, exist_ok=True)
    python = python_of(LM_EVAL, envs)
    with tempfile.TemporaryDirectory() as scratch:
        llm = LLM(model, threads=threads)
        cases = make_cases(llm)
        del llm
        write_tasks(cases, Path(scratch))
        with AsyncLLM(model, threads=threads) as served_model, Served(served_model) as served:
            results, logprobs = evaluate(python, served.url, model, Path(scratch))
    return compare(cases, results, logprobs)


def main() -> None:
    """Print the figures; exits with 1 where they are not the model's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "tinydoc", help="with a tokenizer's files")
    parser.add_argument(
        "--envs", type=Path, default=Path.home() / ".cache" / "heddle-bench", help="where lm-eval lives"
    )
    options = parser.parse_args()
    figures, problems = run(options.model, options.envs)
    print("\n".join(f"{name}: {value:.6g}" for name, value in figures.items()))
    print("\n".join(problems) or "all as the model itself")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()

"""The table of docs/models.md, from the cases of the zoo and what their tests found."""

from __future__ import annotations

import json
import math
from pathlib import Path

from .case import Case
from .compare import Result

RESULTS = Path(__file__).parents[1] / "golden" / "zoo.json"

MODELS = {
    "LlamaForCausalLM": "Llama 1 to 3.3, SmolLM 1 and 2, Falcon 3, TinyLlama, Yi, DeepSeek LLM, ...",
    "MistralForCausalLM": "Mistral 7B, Nemo, Small",
    "Qwen2ForCausalLM": "Qwen 2, Qwen 2.5, DeepSeek R1 distilled",
    "Qwen3ForCausalLM": "Qwen 3 (dense)",
    "Olmo2ForCausalLM": "OLMo 2",
    "SmolLM3ForCausalLM": "SmolLM 3",
    "InternLM2ForCausalLM": "InternLM 2 and 2.5",
    "GlmForCausalLM": "GLM-4 9B (2024)",
    "Glm4ForCausalLM": "GLM-4 0414",
    "GPT2LMHeadModel": "GPT-2, DistilGPT-2",
    "GPTNeoXForCausalLM": "GPT-NeoX, Pythia, Dolly 2",
    "Starcoder2ForCausalLM": "StarCoder 2",
    "PhiForCausalLM": "Phi 1, 1.5, 2",
    "GemmaForCausalLM": "Gemma, CodeGemma",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3 270M and 1B",
    "Gemma3ForConditionalGeneration": "Gemma 3 4B to 27B (text)",
    "Phi3ForCausalLM": "Phi 3, 3.5, 4, 4-mini",
    "GraniteForCausalLM": "Granite 3.0 to 3.3",
    "MiniCPMForCausalLM": "MiniCPM 1, 2, 4",
    "CohereForCausalLM": "Command R, R+, Aya",
    "Cohere2ForCausalLM": "Command R7B, Command A",
    "StableLmForCausalLM": "StableLM 3B, StableLM 2, Zephyr",
    "MinistralForCausalLM": "Ministral 8B",
    "Ministral3ForCausalLM": "Ministral 3",
    "Mistral3ForConditionalGeneration": "Ministral 3, Mistral Small 3.1 and 3.2 (text)",
}
"""Models that people know, by architecture."""


def read_results() -> dict[str, Result]:
    """What the tests have found, by the name of the case."""
    return {name: Result(**values) for name, values in json.loads(RESULTS.read_text()).items()}


def write_result(case: Case, result: Result) -> None:
    """Remember what a test has found; the error is rounded up to one digit, which is what the table shows."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    digit = 10.0 ** math.floor(math.log10(result.error))
    error = float(f"{math.ceil(result.error / digit) * digit:.0e}")
    results[case.name] = {"error": error, "compared": result.compared, "equal": result.equal}
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


def render(cases: tuple[Case, ...], results: dict[str, Result]) -> str:
    """The table: architectures in the order of the cases."""
    lines = ["| architecture | models | tested with | largest error | greedy tokens equal |", "|---|---|---|---|---|"]
    for architecture in dict.fromkeys(case.architecture for case in cases):
        own = [case for case in cases if case.architecture == architecture]
        found = [results[case.name] for case in own]
        equal, compared = sum(r.equal for r in found), sum(r.compared for r in found)
        shows = "; ".join(case.shows for case in own)
        error = f"{max(r.error for r in found):.0e}"
        lines.append(f"| `{architecture}` | {MODELS[architecture]} | {shows} | {error} | {equal} of {compared} |")
    return "\n".join(lines) + "\n"

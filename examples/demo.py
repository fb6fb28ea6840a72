"""Compile the embedded small model and generate from three prompts: what `make demo` runs."""

from __future__ import annotations

from pathlib import Path

import heddle
from heddle.cli.progress import progress_bar

MODEL = Path(__file__).parent / "tinydoc"
PROMPTS = ("The following example shows how to", "To install the package, run", "The return value of this function is")


def main() -> None:
    with progress_bar() as progress:
        llm = heddle.LLM(MODEL, progress=progress)
    manifest = llm.artifact.manifest
    params = heddle.SamplingParams(temperature=0.7, top_p=0.9, max_tokens=80, seed=1)
    for output in llm.generate(list(PROMPTS), params):
        print(f"> {output.prompt}\n{output.prompt}{output.outputs[0].text}\n")
    prefill, decode = llm.stats.prefill, llm.stats.decode
    print(
        f"prefill {prefill.tokens_per_second:.0f} tokens/s, decode {decode.tokens_per_second:.0f} tokens/s (batch of 3)"
    )
    seconds = manifest.compile_seconds
    print("compiled: " + ", ".join(f"{phase} {spent:.2f} s" for phase, spent in seconds.items() if spent >= 0.005))
    print(f"in all {sum(seconds.values()):.1f} s; artifact {llm.artifact.bytes / 1e6:.1f} MB at {llm.artifact.path}")


if __name__ == "__main__":
    main()

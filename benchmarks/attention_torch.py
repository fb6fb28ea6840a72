"""Attention over the paged cache against torch's SDPA on contiguous float32 keys and values, in turns, results compared.

    python benchmarks/attention_torch.py --threads 2

torch runs in a process of its own with as many threads.
"""

from __future__ import annotations

import dataclasses
import os
import statistics

if __name__ == "__main__":
    os.environ.setdefault("TVM_BIND_THREADS", "0")

import numpy as np
import report
from limits import seconds, use_cores
from paged import MODELS, Batch, prepare
from peer import Peer

from heddle.runtime.features import physical_cores
from heddle.runtime.plans import Division
from heddle.schedules.target import TargetProfile

STEPS = {"decode 4k": (4095, 1), "decode 32k": (32767, 1), "prefill 512": (0, 512), "prefill 2k": (0, 2048)}


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians of one kernel and its peer, and the median of the ratios of paired rounds."""

    model: str
    step: str
    microseconds: float
    torch_microseconds: float
    speed: float
    difference: float


def measure(model: str, step: str, peer: Peer, target: TargetProfile, threads: int, rounds: int) -> Result:
    """Rounds of ours and the peer's in turns, on the same keys and values in float32."""
    heads, (start, new) = MODELS[model], STEPS[step]
    rng = np.random.default_rng(0)
    k, v = (rng.standard_normal((heads.kv_heads, start + new, heads.head_dim), np.float32) for _ in range(2))
    ours = prepare(
        heads,
        Batch([start], new),
        "float32",
        target,
        division=Division(threads),
        rows_only=new == 1,
        contiguous=(k, v),
    )
    q = ours.q.reshape(new, heads.heads, heads.head_dim).swapaxes(0, 1)
    theirs = peer.prepare("attention_torch", {"q": q[None], "k": k[None], "v": v[None]})
    assert isinstance(theirs, np.ndarray), theirs
    ours.call()
    difference = float(np.abs(ours.out - theirs[0].swapaxes(0, 1).reshape(ours.out.shape)).max())
    repeat = max(1, int(0.05 / seconds(ours.call, 3)))
    times = []
    for _ in range(rounds):
        times.append((seconds(ours.call, repeat), peer.seconds("attention_torch", max(1, repeat // 4))))
    mine, other = (statistics.median(t) * 1e6 for t in zip(*times, strict=True))
    return Result(model, step, mine, other, statistics.median(b / a for a, b in times), difference)


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["qwen2.5-0.5b", "llama-3.1-8b"])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    cores = physical_cores()
    with Peer(options.threads, cores) as peer:
        use_cores(options.threads)
        target, about = report.heading(options)
        print(f"{'model':14} {'step':12} {'us':>10} {'torch us':>10} {'speed':>7}  largest difference")
        results = []
        for model in options.models:
            for step in options.steps:
                r = measure(model, step, peer, target, options.threads, options.rounds)
                results.append(r)
                print(
                    f"{r.model:14} {r.step:12} {r.microseconds:10.1f} {r.torch_microseconds:10.1f} {r.speed:6.2f}x"
                    f"  {r.difference:.1e}",
                    flush=True,
                )
    report.write(options, about, results)


if __name__ == "__main__":
    main()

"""Reading `config.json`: the raw dictionary, and a reader that takes typed values and collects every problem."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .downloads import stand_ins, unfinished
from .problems import ModelError, Problem, error, nearest, raise_errors

RawConfig = dict[str, Any]

# Keys without influence on what a causal language model computes. Defaults of generation and token ids are read from
# generation_config.json and the tokenizer.
_IGNORED = {
    "training": """
        attention_dropout attention_probs_dropout_prob attn_pdrop classifier_dropout embd_pdrop finetuning_task
        gradient_checkpointing hidden_dropout hidden_dropout_prob initializer_range pretraining_tp problem_type resid_pdrop
        task_specific_params tf_legacy_loss use_deepspeed_checkpointing""",
    "bookkeeping": """
        _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
        _flash_attn_2_enabled _from_model_config _name_or_path attn_implementation auto_map chunk_size_feed_forward
        cross_attention_hidden_size custom_pipeline custom_pipelines experts_implementation id2label is_decoder
        cache_implementation keys_to_ignore_at_inference label2id license
        max_sequence_length model_max_length name_or_path num_labels output_attentions output_hidden_states prefix
        pruned_heads return_dict tie_encoder_decoder tokenizer_class torchscript transformers.js_config
        transformers_version unsloth_fixed unsloth_version use_bfloat16 use_cache""",
    "token ids": """
        bad_words_ids begin_suppress_tokens bos_token_id decoder_start_token_id eos_token_id forced_bos_token_id
        forced_eos_token_id pad_token_id sep_token_id suppress_tokens unk_token_id""",
    "generation": """
        assistant_confidence_threshold assistant_lookbehind diversity_penalty do_sample early_stopping
        encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
        exponential_decay_length_penalty length_penalty max_length max_new_tokens min_length no_repeat_ngram_size
        num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences output_scores
        remove_invalid_values repetition_penalty return_dict_in_generate target_lookbehind temperature top_k top_p
        typical_p""",
}
IGNORED_KEYS = frozenset(key for keys in _IGNORED.values() for key in keys.split())

# Keys that change the computation unless they hold one of these values.
INERT_VALUES: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "alibi": (False, None),
    "attention_bias": (False, None),
    "is_encoder_decoder": (False, None),
    "layer_types": (None,),
    "logit_scale": (1, 1.0, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, 1.0, None),
    "per_layer_config": (None, {}),
    "qk_layernorm": (False, None),
    "quantization_config": (None,),
    "rope_interleaved": (False, None),
    "sliding_window": (None,),
    "use_mrope": (False, None),
    "use_qk_norm": (False, None),
    "use_sliding_window": (False, None),
}

_INERT_REASONS = {
    "quantization_config": ("its weights are stored quantized", "take the checkpoint in floating point"),
    "layer_types": ("layers of different kinds are not part of this family", "check `architectures`"),
}

_REQUIRED: Any = object()


def load_config(path: str | Path) -> RawConfig:
    """The raw config of a model directory (or of a `config.json`). Raises ModelError where there is none to read."""
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    fix = "give the directory of a Hugging Face checkpoint: config.json, *.safetensors, tokenizer.json"
    if not path.exists():
        raise ModelError(str(path), [error("not a model directory", "the path does not exist", fix)])
    if path.is_file() and path.suffix != ".json":
        raise ModelError(str(path), [error("not a model directory", "it is a file", fix)])
    if not file.is_file():
        raise ModelError(str(path), [_no_config(path, fix)])
    raise_errors(str(path), stand_ins([file]))
    return read_object(file, path)


def read_object(file: Path, subject: Path) -> dict[str, Any]:
    """The object in a JSON file of the model `subject`. ModelError where there is none."""
    fix = "download the file again"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exception:
        raise ModelError(str(subject), [error(f"{file.name} cannot be read", str(exception), fix)]) from exception
    except (ValueError, RecursionError) as exception:
        raise ModelError(str(subject), [error(f"{file.name} is not valid JSON", str(exception), fix)]) from exception
    if not isinstance(found, dict):
        why = f"it holds a {type(found).__name__}"
        raise ModelError(str(subject), [error(f"{file.name} is not a JSON object", why, fix)])
    return found


def _no_config(path: Path, fix: str) -> Problem:
    why = "it is empty"
    names = sorted(entry.name for entry in path.iterdir())
    snapshots = sorted(path.glob("snapshots/*/config.json"))
    if (path / "adapter_config.json").is_file():
        why = "it has no config.json; adapter_config.json says that it is an adapter, which needs its base model"
        fix = "merge the adapter into its base model (`merge_and_unload` of peft), and give the directory of the result"
    elif (path / "manifest.json").is_file():
        why = "it has no config.json; manifest.json says that it may be a compiled artifact already"
        fix = "give it to `heddle run`, `chat`, `serve` or `inspect` as it is"
    elif snapshots:
        why = "it is a model's folder in the cache of Hugging Face, which has the files of each revision in snapshots/"
        fix = f"give {' or '.join(str(file.parent) for file in snapshots[:2])}"
    elif "config.json" in unfinished(path):
        why, fix = (
            "config.json is a link to a file that does not exist",
            "copy the files, not their links; or download them again",
        )
    elif names:
        why = f"it has no config.json, only: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    return error("not a model directory", why, fix)


def renamed(raw: Mapping[str, Any], names: Mapping[str, str]) -> RawConfig:
    """A config under other names: those of GPT-2 are older than the ones that families share.

    Where both names are there with different values, the older stays and is refused as unknown.
    """
    return {key if raw.get(new := names.get(key, key), value) != value else new: value for key, value in raw.items()}


class ConfigReader:
    """Takes values from a raw config, checks them, and collects every problem instead of stopping at the first.

    A bad value is replaced by a placeholder so that reading goes on; `valid(keys)` says whether values are real, for
    checks that involve several. `None` counts as absent, as in transformers.
    """

    def __init__(self, raw: Mapping[str, Any], *, where: str = "") -> None:
        self.raw = raw
        self.where = where  # prefix of keys in messages, such as "rope_parameters."
        self.problems: list[Problem] = []
        self.seen: set[str] = set()
        self._bad: set[str] = set()

    def bad(self, key: str, what: str, why: str = "", fix: str = "") -> None:
        """Record a problem with `key`."""
        self._bad.add(key)
        self.problems.append(error(what, why, fix))

    def valid(self, *keys: str) -> bool:
        """Whether none of `keys` had a problem."""
        return not self._bad.intersection(keys)

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The raw value; records a problem where a required key is absent."""
        self.seen.add(key)
        value = self.raw.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            known = [name for name in self.raw if name not in IGNORED_KEYS and name not in self.seen]
            self.bad(key, f'config key "{self.where}{key}" is missing', nearest(key, known), "add it to config.json")
            return None
        return default

    def integer(self, key: str, default: Any = _REQUIRED, *, minimum: int = 1, maximum: int = 1 << 30) -> int:
        """An integer from `minimum` to `maximum`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(key, value, "an integer")
            return minimum
        if not minimum <= value <= maximum:
            why = f"it must be at least {minimum}" if value < minimum else f"it must be at most {maximum}"
            self.bad(key, f'config key "{self.where}{key}" is {value!s:.20}', why)
            return minimum
        return value

    def number(self, key: str, default: Any = _REQUIRED, *, positive: bool = True) -> float:
        """A finite number, greater than zero if `positive`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(key, value, "a number")
            return 1.0
        if not abs(value) < 1e30 or (positive and value <= 0):  # NaN is not less either
            why = "it must be finite" + " and positive" * positive
            self.bad(key, f'config key "{self.where}{key}" is {value}', why)
            return 1.0
        return value

    def boolean(self, key: str, default: Any = _REQUIRED) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self._wrong(key, value, "true or false")
            return False
        return value

    def choice(self, key: str, choices: Sequence[str], default: Any = _REQUIRED) -> str:
        """One of `choices`."""
        value = self.get(key, default)
        if not isinstance(value, str):
            self._wrong(key, value, "a string")
        elif value not in choices:
            self.bad(key, f'config key "{self.where}{key}" is "{value}"', f"supported: {', '.join(choices)}")
        else:
            return value
        return choices[0]

    def fixed(self, key: str, *values: Any) -> None:
        """A key that may be absent or have one of these values: what the others mean is not supported."""
        given = self.get(key, None)
        if given is not None and not any(given == value and type(given) is type(value) for value in values):
            what = f'config key "{self.where}{key}" is {json.dumps(given, default=str)[:80]}'
            self.bad(key, what, f"supported: {', '.join(json.dumps(value) for value in values) or 'null'}")

    def _wrong(self, key: str, value: Any, expected: str) -> None:
        if value is None and key in self._bad:
            return  # already reported as missing
        shown = json.dumps(value, default=str)[:80]
        self.bad(key, f'config key "{self.where}{key}" is {shown}', f"it must be {expected}")

    def check_unknown(self) -> None:
        """Report every key that nothing has read and that is not known to be without influence. Null counts as absent."""
        known = {*self.seen, *IGNORED_KEYS, *INERT_VALUES}
        for key, value in self.raw.items():
            if value is None or key in self.seen or key in IGNORED_KEYS:
                continue
            inert = INERT_VALUES.get(key)
            if inert is None:
                why = f"it may change what the model computes; {nearest(key, known) or 'no known key is near'}"
                self.bad(key, f'unknown config key "{self.where}{key}"', why, "remove or correct it")
            elif not any(value == allowed and type(value) is type(allowed) for allowed in inert):
                why, fix = _INERT_REASONS.get(key, ("this family does not have it", "check `architectures`"))
                what = f'config key "{self.where}{key}" is {json.dumps(value)[:80]}, which is not supported'
                self.bad(key, what, why, fix)

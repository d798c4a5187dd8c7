"""What a dense decoder-only transformer is made of: its dimensions and its parameter tensors, counted exactly."""

import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

from mllandscape import BadInput, told, units

LIMITS = {
    "layers": 1_024,
    "hidden": 131_072,
    "heads": 1_024,
    "kv_heads": 1_024,
    "ffn": 1_048_576,
    "vocab": 4_194_304,
    "context": 16_777_216,
    "head_dim": 256,
}
"""The largest value of each dimension; the smallest is 1."""

SIZES = (1e8, 5e11)
"""The range of parameter counts that ``ModelShape.of_size`` covers."""

Tensors = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A GPT-2-style or Llama-style decoder; nothing but whole numbers, so it costs nothing to make.

    ``gpt``: learned positions, LayerNorm, one biased qkv projection, GELU. ``llama``: rotary positions, RMSNorm,
    grouped kv heads, SwiGLU. Left out, ``head_dim`` is hidden / heads, ``kv_heads`` is heads, ``ffn`` is 4·hidden (gpt)
    or Llama-2's rule, 8/3·hidden rounded up to a multiple of 256 (llama; ``llama/model.py`` of meta-llama/llama),
    ``tied`` and ``qkv_bias`` are True for gpt and False for llama. ``context`` is the longest sequence in tokens (rows of
    learned positions in gpt). ``head_dim`` is a multiple of 8, at most 256: CUDA's flash kernel takes no more, and torch pads
    anything else first (``check_head_dim_size_flash`` in its ``sdp_utils.cpp``, ``pad_last_dim`` in ``attention.cpp``).
    Raises BadInput for a shape that cannot be built.
    """

    style: str = "llama"
    layers: int
    hidden: int
    heads: int
    kv_heads: int | None = None
    ffn: int | None = None
    vocab: int
    tied: bool | None = None
    context: int = 4096
    head_dim: int | None = None
    qkv_bias: bool | None = None
    qk_norm: bool = False
    name: str = ""

    def __post_init__(self):
        if self.style not in ("gpt", "llama"):
            raise BadInput(f"style={told(self.style)}: gpt and llama are possible.")
        gpt = self.style == "gpt"
        for dimension in ("layers", "hidden", "heads", "vocab", "context"):
            self._check_dimension(dimension)
        if self.head_dim is None and self.hidden % self.heads:
            raise BadInput(f"hidden={self.hidden} is not a multiple of heads={self.heads}: change one, or give head_dim.")
        self._default("head_dim", self.hidden // self.heads)
        self._default("kv_heads", self.heads)
        self._default("ffn", 4 * self.hidden if gpt else -(-(8 * self.hidden // 3) // 256) * 256)
        self._default("tied", gpt)
        self._default("qkv_bias", gpt)
        for dimension in ("head_dim", "kv_heads", "ffn"):
            self._check_dimension(dimension)
        for switch in ("tied", "qkv_bias", "qk_norm"):
            if not isinstance(getattr(self, switch), bool):
                raise BadInput(f"{switch}={told(getattr(self, switch))}: True and False are possible.")
        if not isinstance(self.name, str) or not (self.name == "" or self.name.isprintable()):
            raise BadInput(f"name={told(self.name)}: a name is one line of text.")
        if self.head_dim % 8:
            raise BadInput(f"head_dim={self.head_dim} (hidden / heads unless given): flash attention needs a multiple of 8, up to 256; change heads.")
        if self.heads % self.kv_heads:
            raise BadInput(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}: each kv head serves the same number of heads.")
        if gpt and (self.kv_heads != self.heads or self.q_dim != self.hidden):
            raise BadInput(f"kv_heads={self.kv_heads}, head_dim={self.head_dim}: gpt has {self.heads} kv heads of hidden / heads; style='llama' takes others.")
        if gpt and (self.qk_norm or not self.qkv_bias):
            raise BadInput(f"qkv_bias={self.qkv_bias}, qk_norm={self.qk_norm}: gpt has the bias and no norm of q and k; style='llama' takes others.")

    def _default(self, field: str, value: int | bool) -> None:
        if getattr(self, field) is None:
            object.__setattr__(self, field, value)

    def _check_dimension(self, field: str) -> None:
        value, limit = getattr(self, field), LIMITS[field]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise BadInput(f"{field}={told(value)}: a whole number from 1 to {limit:,} is possible.")

    @property
    def q_dim(self) -> int:
        """Width of the queries of all heads together."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of the keys (and of the values) of all kv heads together."""
        return self.kv_heads * self.head_dim

    @cached_property
    def embedding(self) -> Tensors:
        """(name, shape) of the parameters before the first block, in the order of the model's ``named_parameters()``."""
        tokens = ("tokens.weight", (self.vocab, self.hidden))
        return (tokens, ("positions.weight", (self.context, self.hidden))) if self.style == "gpt" else (tokens,)

    @cached_property
    def block(self) -> Tensors:
        """(name, shape) of one block's parameters, in the order of the model's ``named_parameters()``."""
        h, f = self.hidden, self.ffn
        if self.style == "gpt":
            return (
                ("norm1.weight", (h,)), ("norm1.bias", (h,)),
                ("qkv.weight", (3 * h, h)), ("qkv.bias", (3 * h,)),
                ("out.weight", (h, h)), ("out.bias", (h,)),
                ("norm2.weight", (h,)), ("norm2.bias", (h,)),
                ("up.weight", (f, h)), ("up.bias", (f,)),
                ("down.weight", (h, f)), ("down.bias", (h,)),
            )  # fmt: skip
        tensors: list = [("norm1.weight", (h,))]
        for projection, width in (("q", self.q_dim), ("k", self.kv_dim), ("v", self.kv_dim)):
            tensors.append((f"{projection}.weight", (width, h)))
            if self.qkv_bias:
                tensors.append((f"{projection}.bias", (width,)))
        if self.qk_norm:
            tensors += [("q_norm.weight", (self.head_dim,)), ("k_norm.weight", (self.head_dim,))]
        tensors += [("out.weight", (h, self.q_dim)), ("norm2.weight", (h,))]
        tensors += [("gate.weight", (f, h)), ("up.weight", (f, h)), ("down.weight", (h, f))]
        return tuple(tensors)

    @cached_property
    def final(self) -> Tensors:
        """(name, shape) of the parameters after the last block; a tied head is the token embedding and not repeated here."""
        norm = (("norm.weight", (self.hidden,)),)
        if self.style == "gpt":
            norm += (("norm.bias", (self.hidden,)),)
        return norm if self.tied else (*norm, ("head.weight", (self.vocab, self.hidden)))

    @cached_property
    def block_parameters(self) -> int:
        """Number of parameters of one block."""
        return _count(self.block)

    @cached_property
    def parameters(self) -> int:
        """Exact number of parameters; a tied head counts once."""
        return _count(self.embedding) + self.layers * self.block_parameters + _count(self.final)

    @classmethod
    def preset(cls, name: str) -> "ModelShape":
        """A published model by its name, such as ``"llama-2-13b"``; capitals do not matter. Raises BadInput that lists all names."""
        if isinstance(name, str) and name.strip().lower() in PRESETS:
            return PRESETS[name.strip().lower()]
        raise BadInput(f"no preset {told(name)}; possible: {', '.join(PRESETS)}; or ModelShape.from_config('config.json').")

    @classmethod
    def of_size(cls, parameters: float, style: str = "llama") -> "ModelShape":
        """A realistic shape with about this many parameters (1e8 to 5e11), within 6 %; more parameters never give a narrower or shallower one.

        Proportions of GPT-2 and Llama-2: see ``_rung``. Of the two neighbouring shapes the one with the nearer count is taken.
        """
        if isinstance(parameters, bool) or not isinstance(parameters, int | float) or not SIZES[0] <= parameters <= SIZES[1]:
            raise BadInput(f"parameters={told(parameters)}: a number from {SIZES[0]:.0e} to {SIZES[1]:.0e} is possible.")
        if style not in ("gpt", "llama"):
            raise BadInput(f"style={told(style)}: gpt and llama are possible.")
        widths = range(512, 20_480)
        above = bisect_left(widths, parameters, key=lambda width: _rung(width, style).parameters)
        pair = (_rung(widths[above - 1], style), _rung(widths[above], style))
        shape = min(pair, key=lambda shape: abs(shape.parameters - parameters))
        return replace(shape, name=f"{style}-{units.count(shape.parameters).replace(' ', '')}")

    @classmethod
    def from_config(cls, path: str | Path) -> "ModelShape":
        """The shape in a Hugging Face ``config.json`` (or the folder that holds one): GPT-2, Llama, Mistral, Qwen2 and Qwen3, dense.

        Sizes, head_dim, biases, q/k norm and tying are read; dropout, rope and sliding windows change no parameter and are not.
        Raises BadInput, in one line, for everything else: another ``model_type`` by its name, a quantized model, a head that is
        not a language model's, missing or wrong keys, an unreadable file.
        """
        path, config = _read_config(path)
        try:
            return cls(name=_config_name(path), **_fields_of(config))
        except BadInput as problem:
            raise BadInput(f"{told(str(path))}: {problem}") from None

    def to_json(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        heads = f"{self.heads} heads" if self.kv_heads == self.heads else f"{self.heads} heads ({self.kv_heads} kv)"
        parts = f"{self.layers} layers, hidden {self.hidden:,}, {heads}, ffn {self.ffn:,}, vocabulary {self.vocab:,}"
        return f"{self.name or self.style}: {parts}, {self.parameters:,} parameters"


def _count(tensors: Tensors) -> int:
    return sum(prod(shape) for _, shape in tensors)


def _rung(width: int, style: str) -> ModelShape:
    """The shape at one point of the size ladder; every dimension grows with ``width``, so the parameters do.

    hidden is width in steps of 64 (head_dim 64), from 4096 on in steps of 128 (head_dim 128). layers: 12 at 768 (GPT-2 124M) rising to
    32 at 4096 (Llama-2 7B) by a power law, then width / 128 (Llama-2 13B, Llama-3.1 405B). ffn is 4·width (GPT-2) or
    8/3·width (Llama-2) in steps of 256. Every head has its own kv head.
    """
    head_dim = 64 if width < 4096 else 128
    hidden = width // head_dim * head_dim
    layers = 12 * (width / 768) ** 0.586 if width < 4096 else width / 128
    common = {"style": style, "layers": round(layers), "hidden": hidden, "heads": hidden // head_dim}
    if style == "gpt":
        return ModelShape(**common, ffn=round(width / 64) * 256, vocab=50_257, context=1_024)
    return ModelShape(**common, ffn=round(width / 96) * 256, vocab=32_000)


def _llama(name: str, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, context: int, **more) -> ModelShape:
    return ModelShape(name=name, layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, ffn=ffn, vocab=vocab, context=context, **more)


def _gpt2(name: str, layers: int, hidden: int, heads: int) -> ModelShape:
    return ModelShape(style="gpt", name=name, layers=layers, hidden=hidden, heads=heads, vocab=50_257, context=1_024)


# The sizes are those of the config.json that each model's publisher put on the Hugging Face Hub (repository in the comment).
PRESETS = {
    shape.name: shape
    for shape in (
        _gpt2("gpt2", 12, 768, 12),  # openai-community/gpt2; Radford et al. 2019, table 2
        _gpt2("gpt2-medium", 24, 1_024, 16),  # openai-community/gpt2-medium
        _gpt2("gpt2-large", 36, 1_280, 20),  # openai-community/gpt2-large
        _gpt2("gpt2-xl", 48, 1_600, 25),  # openai-community/gpt2-xl
        _llama("llama-2-7b", 32, 4_096, 32, 32, 11_008, 32_000, 4_096),  # meta-llama/Llama-2-7b-hf; Touvron et al., arXiv 2307.09288
        _llama("llama-2-13b", 40, 5_120, 40, 40, 13_824, 32_000, 4_096),  # meta-llama/Llama-2-13b-hf
        _llama("llama-2-70b", 80, 8_192, 64, 8, 28_672, 32_000, 4_096),  # meta-llama/Llama-2-70b-hf
        _llama("llama-3.2-1b", 16, 2_048, 32, 8, 8_192, 128_256, 131_072, head_dim=64, tied=True),  # meta-llama/Llama-3.2-1B
        _llama("llama-3-8b", 32, 4_096, 32, 8, 14_336, 128_256, 8_192),  # meta-llama/Meta-Llama-3-8B; arXiv 2407.21783, table 3
        _llama("llama-3-70b", 80, 8_192, 64, 8, 28_672, 128_256, 8_192),  # meta-llama/Meta-Llama-3-70B
        _llama("llama-3-405b", 126, 16_384, 128, 8, 53_248, 128_256, 131_072),  # meta-llama/Llama-3.1-405B
        _llama("mistral-7b", 32, 4_096, 32, 8, 14_336, 32_000, 32_768),  # mistralai/Mistral-7B-v0.1; arXiv 2310.06825, table 1
        _llama("qwen2.5-0.5b", 24, 896, 14, 2, 4_864, 151_936, 32_768, tied=True, qkv_bias=True),  # Qwen/Qwen2.5-0.5B
        _llama("qwen2.5-7b", 28, 3_584, 28, 4, 18_944, 152_064, 131_072, qkv_bias=True),  # Qwen/Qwen2.5-7B; arXiv 2412.15115, table 1
        _llama("qwen3-8b", 36, 4_096, 32, 8, 12_288, 151_936, 40_960, head_dim=128, qk_norm=True),  # Qwen/Qwen3-8B; arXiv 2505.09388, table 1
    )
}

_LLAMA_KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
}
_CONFIG_KEYS = {
    "gpt2": {"layers": "n_layer", "hidden": "n_embd", "heads": "n_head", "vocab": "vocab_size", "context": "n_positions"},
    "llama": _LLAMA_KEYS,
    "mistral": _LLAMA_KEYS,
    "qwen2": _LLAMA_KEYS,
    "qwen3": _LLAMA_KEYS,
}


def _read_config(path: str | Path) -> tuple[Path, dict]:
    """The path of the file and the JSON object in it."""
    try:
        path = Path(path)
        if path.is_dir():
            path /= "config.json"
        with path.open("rb") as file:
            text = file.read(2**20 + 1)
    except (OSError, TypeError, ValueError) as problem:  # ValueError: a NUL character in the path
        reason = getattr(problem, "strerror", None) or "not a path"
        raise BadInput(f"{told(str(path))}: {reason}; give a Hugging Face config.json or the folder that holds one.") from None
    if len(text) > 2**20:
        raise BadInput(f"{told(str(path))}: more than 1 MiB, so not a config.json; give a Hugging Face config.json.")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput(f"{told(str(path))}: not JSON; give a Hugging Face config.json.") from None
    if not isinstance(config, dict):
        raise BadInput(f"{told(str(path))}: JSON, but not an object with keys; give a Hugging Face config.json.")
    return path, config


def _config_name(path: Path) -> str:
    """What the model is called: the folder of its config.json, else the file's own name."""
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return name if name.isprintable() else ""


def _fields_of(config: dict) -> dict:
    """The fields of a ModelShape in a config's keys, with the defaults of the config classes in Hugging Face transformers."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _CONFIG_KEYS:
        what = "no model_type" if kind is None else f"model_type {told(kind)}"
        raise BadInput(f"{what}; {', '.join(_CONFIG_KEYS)} (dense decoders) are possible.")
    _refuse_variants(config, kind)
    keys = dict(_CONFIG_KEYS[kind])
    if kind == "llama" and "num_key_value_heads" not in config:  # Llama 1 had no such key: every head has its own
        del keys["kv_heads"]
    missing = [key for key in keys.values() if key not in config]
    if missing:
        raise BadInput(f"no {', '.join(missing)}; a {kind} config needs {', '.join(keys.values())}.")
    null = [key for field, key in keys.items() if field != "kv_heads" and config[key] is None]
    if null:
        raise BadInput(f"{', '.join(null)} is null; a {kind} config needs whole numbers there.")
    fields = {field: config[key] for field, key in keys.items()}
    if kind == "gpt2":
        return fields | {"style": "gpt", "ffn": config.get("n_inner"), "tied": config.get("tie_word_embeddings", True)}
    fields |= {"head_dim": config.get("head_dim", 128 if kind == "qwen3" else None), "tied": config.get("tie_word_embeddings", False)}
    return fields | {"qkv_bias": kind == "qwen2", "qk_norm": kind == "qwen3"}


def _refuse_variants(config: dict, kind: str) -> None:
    """Refuse what such a config can switch on and a ModelShape does not have."""
    if config.get("quantization_config") is not None:
        raise BadInput("a quantized model (quantization_config); give the config of the unquantized one.")
    for key in ("attention_bias", "mlp_bias", "add_cross_attention", "is_encoder_decoder"):
        # attention_bias also puts a bias on the output projection (LlamaAttention.o_proj, Qwen3Attention.o_proj)
        if config.get(key):
            raise BadInput(f"{key} is on; a {kind} model without it is possible.")
    heads = config.get("architectures")
    if heads and not (isinstance(heads, list) and any(str(head).endswith(("ForCausalLM", "LMHeadModel")) for head in heads)):
        raise BadInput(f"architectures {told(heads)}; a language model's head (…ForCausalLM, GPT2LMHeadModel) is possible.")

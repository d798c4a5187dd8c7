"""Shapes count their parameters exactly, read configs exactly, and refuse everything else in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllandscape import BadInput
from mllandscape.memory.shape import LIMITS, PRESETS, SIZES, ModelShape

CONFIGS = Path(__file__).parent / "configs"

# Parameters that the publishers' checkpoints hold (the safetensors totals shown on the Hugging Face Hub; GPT-2 without its buffers).
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
}
PUBLISHED_CONFIGS = {
    "gpt2": 124_439_808,
    "llama-1-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "mistral-nemo-12b": 12_247_782_400,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
}
GOOD = {"style": "llama", "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "ffn": 128, "vocab": 1000, "context": 128}


def refused(make, *args, **kwargs) -> str:
    with pytest.raises(BadInput) as caught:
        make(*args, **kwargs)
    message = str(caught.value)
    assert message and message.isprintable(), f"not one line: {message!r}"
    return message


def edited(tmp_path: Path, **changes) -> Path:
    """The Llama-2 13B config with some keys changed, or left out where the value is ``...``."""
    config = json.loads((CONFIGS / "llama-2-13b.json").read_text()) | changes
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return path


def test_every_preset_has_its_published_number_of_parameters():
    assert {name: shape.parameters for name, shape in PRESETS.items()} == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_a_config_on_disk_has_its_published_number_of_parameters(name):
    shape = ModelShape.from_config(CONFIGS / f"{name}.json")
    assert shape.parameters == PUBLISHED_CONFIGS[name]
    assert shape.name == name


@pytest.mark.parametrize("name", sorted(PUBLISHED_CONFIGS.keys() & PUBLISHED.keys()))
def test_a_config_and_the_preset_of_the_same_model_are_the_same_shape(name):
    assert ModelShape.from_config(CONFIGS / f"{name}.json") == ModelShape.preset(name)


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "qwen2.5-7b", "qwen3-8b"])
def test_the_reference_model_has_exactly_these_tensors(name):
    reference = pytest.importorskip("mllandscape.memory.reference", reason="needs torch")
    from mllandscape.memory.plan import TrainingPlan

    shape = ModelShape.preset(name)
    model = reference.make_model(shape, TrainingPlan(precision="bf16"), device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    assert tuple((key, tuple(value.shape)) for key, value in model.blocks[0].named_parameters()) == shape.block


def test_a_preset_is_found_whatever_its_capitals_and_an_unknown_one_lists_them_all():
    assert ModelShape.preset(" Llama-2-13B ") is PRESETS["llama-2-13b"]
    message = refused(ModelShape.preset, "gpt-5")
    assert all(name in message for name in PRESETS)
    refused(ModelShape.preset, None)


def test_left_out_fields_take_the_defaults_of_their_style():
    gpt = ModelShape(style="gpt", layers=1, hidden=768, heads=12, vocab=100)
    assert (gpt.kv_heads, gpt.head_dim, gpt.ffn, gpt.tied, gpt.qkv_bias) == (12, 64, 3072, True, True)
    llama = ModelShape(layers=1, hidden=5120, heads=40, vocab=100)
    assert (llama.kv_heads, llama.head_dim, llama.ffn, llama.tied, llama.qkv_bias) == (40, 128, 13_824, False, False)
    assert ModelShape(layers=1, hidden=4096, heads=32, vocab=100).ffn == 11_008


def test_a_shape_survives_json():
    for shape in PRESETS.values():
        assert ModelShape(**json.loads(json.dumps(shape.to_json()))) == shape


def test_a_shape_reads_as_one_line_with_its_count():
    assert str(ModelShape.preset("llama-2-13b")) == (
        "llama-2-13b: 40 layers, hidden 5,120, 40 heads, ffn 13,824, vocabulary 32,000, 13,015,864,320 parameters"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": 7}, "multiple of heads"),
        ({"heads": 16}, "multiple of 8"),
        ({"head_dim": 264}, "256"),
        ({"heads": 4, "kv_heads": 3}, "multiple of kv_heads"),
        ({"style": "bert"}, "gpt and llama"),
        ({"style": "gpt"}, "kv_heads=2"),
        ({"style": "gpt", "kv_heads": 4, "head_dim": 32}, "head_dim=32"),
        ({"style": "gpt", "kv_heads": 4, "qk_norm": True}, "qk_norm"),
        ({"style": "gpt", "kv_heads": 4, "qkv_bias": False}, "qkv_bias"),
        ({"layers": 0}, "from 1 to"),
        ({"layers": True}, "from 1 to"),
        ({"hidden": 64.0}, "from 1 to"),
        ({"vocab": 10**5000}, "thousands of digits"),
        ({"tied": 1}, "True and False"),
        ({"name": "two\nlines"}, "one line"),
    ],
)
def test_a_shape_that_cannot_be_built_says_why(change, words):
    assert words in refused(ModelShape, **GOOD | change)


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-8, 300), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2)
)


@given(st.dictionaries(st.sampled_from([*LIMITS, "style", "tied", "qkv_bias", "qk_norm", "name"]), anything, min_size=1))
def test_any_values_make_a_shape_or_one_clear_line(changes):
    try:
        shape = ModelShape(**GOOD | changes)
    except BadInput as problem:
        assert str(problem).isprintable()
    else:
        assert shape.parameters > 0 and str(shape).isprintable()


@given(st.dictionaries(st.sampled_from(list(json.loads((CONFIGS / "qwen3-8b.json").read_text()))), anything, min_size=1))
def test_any_config_values_make_a_shape_or_one_clear_line(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(json.loads((CONFIGS / "qwen3-8b.json").read_text()) | changes))
    try:
        shape = ModelShape.from_config(path)
    except BadInput as problem:
        assert str(problem).isprintable()
    else:
        assert shape.parameters > 0


@given(st.one_of(st.binary(max_size=40), anything.map(lambda value: json.dumps(value).encode()), st.just(b"[" * 200_000)))
def test_any_file_is_a_config_or_one_clear_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_bytes(content)
    refused(ModelShape.from_config, path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen3_moe"}, "qwen3_moe"),
        ({"model_type": "gemma2"}, "gemma2"),
        ({"model_type": "t5"}, "t5"),
        ({"model_type": ...}, "no model_type"),
        ({"hidden_size": ...}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "5120"}, "'5120'"),
        ({"num_attention_heads": 39}, "heads=39"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": 7}, "architectures"),
        ({"tie_word_embeddings": "no"}, "tied='no'"),
        ({"model_type": "mistral", "num_key_value_heads": ...}, "num_key_value_heads"),
    ],
)
def test_a_config_of_another_kind_is_refused_by_name(tmp_path, changes, words):
    assert words in refused(ModelShape.from_config, edited(tmp_path, **changes))


def test_a_mixture_of_experts_is_refused_by_name():
    assert "mixtral" in refused(ModelShape.from_config, CONFIGS / "mixtral-8x7b.json")


def test_a_folder_stands_for_the_config_in_it_and_names_the_shape(tmp_path):
    edited(tmp_path)
    shape = ModelShape.from_config(tmp_path)
    assert shape.parameters == PUBLISHED["llama-2-13b"]
    assert shape.name == tmp_path.name


def test_the_keys_that_change_no_parameter_change_nothing(tmp_path):
    plain = ModelShape.from_config(edited(tmp_path))
    assert ModelShape.from_config(edited(tmp_path, attention_dropout=0.1, rope_scaling={"factor": 8}, sliding_window=4096, architectures=None)) == plain


def test_a_null_head_count_means_a_kv_head_for_every_head(tmp_path):
    assert ModelShape.from_config(edited(tmp_path, num_key_value_heads=None)).kv_heads == 40


def test_a_path_that_cannot_be_read_is_one_clear_line(tmp_path):
    assert "No such file" in refused(ModelShape.from_config, tmp_path / "none.json")
    assert "config.json" in refused(ModelShape.from_config, tmp_path)
    for path in ("a\0b", "line\nbreak", 7, None, b"bytes"):
        refused(ModelShape.from_config, path)
    big = tmp_path / "big.json"
    big.write_bytes(b" " * (2**20 + 1))
    assert "1 MiB" in refused(ModelShape.from_config, big)


sizes = st.floats(*SIZES)


@given(sizes, st.sampled_from(["gpt", "llama"]))
def test_a_shape_of_any_size_is_within_six_per_cent(size, style):
    shape = ModelShape.of_size(size, style)
    assert abs(shape.parameters / size - 1) <= 0.06
    assert shape.head_dim in (64, 128) and shape.hidden == shape.q_dim
    assert shape == ModelShape.of_size(size, style)


@given(sizes, sizes, st.sampled_from(["gpt", "llama"]))
def test_more_parameters_never_make_a_shallower_or_narrower_shape(one, other, style):
    small, large = (ModelShape.of_size(size, style) for size in sorted((one, other)))
    for dimension in ("parameters", "layers", "hidden", "ffn"):
        assert getattr(small, dimension) <= getattr(large, dimension)


def test_the_size_ladder_passes_through_published_shapes():
    for name in ("gpt2", "llama-2-13b"):
        published = ModelShape.preset(name)
        assert ModelShape.of_size(published.parameters, published.style).to_json() | {"name": name} == published.to_json()


@pytest.mark.parametrize("size", [0, -1, 1e7, 1e13, float("nan"), float("inf"), True, "13B", None])
def test_a_size_off_the_ladder_is_one_clear_line(size):
    assert "1e+08" in refused(ModelShape.of_size, size)
    assert "gpt and llama" in refused(ModelShape.of_size, 1e9, style="bert")


def test_shapes_plans_and_predictions_import_no_torch():
    code = "import sys; from mllandscape.memory import ModelShape, TrainingPlan, MemoryProfile, predict; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_predict_is_the_function_whichever_import_came_first():
    code = "import mllandscape.memory.predict; from mllandscape.memory import predict; assert predict.__name__ == 'predict' and callable(predict)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import mllandscape.memory

    with pytest.raises(AttributeError, match="nothing"):
        _ = mllandscape.memory.nothing

"""Loading folders, whole and broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxFillPipeline, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from instgenie.checkpoint import Checkpoint, load_checkpoint
from instgenie.errors import CheckpointError
from instgenie.flow import FlowShift
from instgenie.model_settings import FIDELITY_FILE, ModelSettings, default_settings
from instgenie.revision import hash_file

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Load onto the CPU."""
    return load_checkpoint(folder, dtype, CPU)


@pytest.fixture
def builtin_copy(tiny_builtin: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be broken."""
    return Path(shutil.copytree(tiny_builtin, tmp_path / "model"))


@pytest.fixture
def flux_copy(tiny_flux_fill: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Flux Fill model that may be broken."""
    return Path(shutil.copytree(tiny_flux_fill, tmp_path / "flux"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON object in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip_last_byte(path: Path) -> None:
    """Change one weight, or the last character."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_kind_of_the_embedded_model(builtin_kind: Checkpoint) -> None:
    assert builtin_kind.settings == ModelSettings("tiny-builtin", 4, 3.0, 64, 8, ("red apple", "star"))
    assert (builtin_kind.takes_fill, builtin_kind.distilled) == (True, False)
    assert (builtin_kind.codec.patch, builtin_kind.codec.pack, builtin_kind.codec.channels) == (8, 1, 8)
    assert builtin_kind.shift == FlowShift(shift=1.0, dynamic=False)
    assert (builtin_kind.forward.num_blocks, builtin_kind.forward.dtype) == (2, torch.float32)


def test_kind_of_flux_fill(flux_fill_kind: Checkpoint) -> None:
    assert flux_fill_kind.settings == ModelSettings("tiny-flux-fill", 4, 30.0, 16, 8)
    assert (flux_fill_kind.takes_fill, flux_fill_kind.distilled) == (True, True)
    assert (flux_fill_kind.codec.patch, flux_fill_kind.codec.pack, flux_fill_kind.codec.channels) == (16, 2, 16)
    assert flux_fill_kind.shift == FlowShift(3.0, True, 256, 4096, 0.5, 1.15)


def test_dtype_is_the_transformers(tiny_flux_fill: Path) -> None:
    checkpoint = load(tiny_flux_fill, torch.bfloat16)
    assert checkpoint.forward.dtype == torch.bfloat16
    (prompt,) = checkpoint.prompts.encode(["x"])
    assert prompt.states.dtype == torch.float32


def test_transformer_without_fill_inputs(builtin_copy: Path) -> None:
    transformer = FluxTransformer2DModel.from_pretrained(builtin_copy / "transformer", low_cpu_mem_usage=False)
    FluxTransformer2DModel(**(dict(transformer.config) | {"in_channels": 8})).save_pretrained(
        builtin_copy / "transformer"
    )
    assert not load(builtin_copy).takes_fill


@pytest.mark.parametrize(
    ("takes_fill", "distilled", "expected"),
    [
        (True, True, (50, 30.0, 512)),
        (True, False, (50, 1.0, 512)),
        (False, True, (28, 3.5, 512)),
        (False, False, (4, 1.0, 256)),
    ],
    ids=["fill", "fill without guidance", "dev", "schnell"],
)
def test_defaults_are_those_of_the_kind(
    takes_fill: bool, distilled: bool, expected: tuple[int, float, int], flux_copy: Path
) -> None:
    (flux_copy / "instgenie.json").unlink()
    transformer = FluxTransformer2DModel.from_pretrained(flux_copy / "transformer", low_cpu_mem_usage=False)
    config = dict(transformer.config) | {"guidance_embeds": distilled}
    if not takes_fill:
        config["in_channels"] = config["out_channels"]
    FluxTransformer2DModel(**config).save_pretrained(flux_copy / "transformer")
    checkpoint = load(flux_copy)
    settings = checkpoint.settings
    assert (settings.steps, settings.guidance, settings.text_tokens) == expected
    assert (checkpoint.takes_fill, checkpoint.distilled) == (takes_fill, distilled)


def test_defaults_are_those_of_diffusers() -> None:
    for pipeline, kind in ((FluxFillPipeline, {"takes_fill": True}), (FluxPipeline, {"takes_fill": False})):
        settings = default_settings("model", distilled=True, **kind)
        parameters = signature(pipeline.__call__).parameters
        assert settings.steps == parameters["num_inference_steps"].default
        assert settings.guidance == parameters["guidance_scale"].default
        assert settings.text_tokens == parameters["max_sequence_length"].default


def test_text_encoder_of_another_width(builtin_copy: Path, flux_copy: Path) -> None:
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(builtin_copy / part)
    config = BertConfig(vocab_size=90, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config, add_pooling_layer=False).save_pretrained(builtin_copy / "text_encoder")
    shutil.copytree(flux_copy / "tokenizer_2", builtin_copy / "tokenizer")
    with pytest.raises(CheckpointError, match="gives 16 and 16 channels"):
        load(builtin_copy)


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": []},
        {"block_out_channels": 4},
        {"block_out_channels": [4, 0]},
        {"scaling_factor": None},
        {"scaling_factor": "0.3"},
        {"scaling_factor": float("nan")},
        {"scaling_factor": -1},
        {"shift_factor": "0.1"},
        {"latents_mean": [0.5, 0.5, 0.5, 0.5]},
    ],
    ids=str,
)
def test_autoencoder_that_cannot_run(flux_copy: Path, change: dict[str, Any]) -> None:
    edit_json(flux_copy / "vae" / "config.json", lambda c: c.update(change))
    with pytest.raises(CheckpointError) as caught:
        load(flux_copy)
    assert str(flux_copy / "vae" / "config.json") in str(caught.value)
    assert next(iter(change)) in str(caught.value)


def test_wrong_number_of_channels(builtin_copy: Path) -> None:
    transformer = FluxTransformer2DModel.from_pretrained(builtin_copy / "transformer", low_cpu_mem_usage=False)
    FluxTransformer2DModel(**(dict(transformer.config) | {"in_channels": 12})).save_pretrained(
        builtin_copy / "transformer"
    )
    with pytest.raises(CheckpointError, match=r"takes 12 channels.* 8 \(plain\) or 80 \(fill\)") as caught:
        load(builtin_copy)
    assert str(builtin_copy) in str(caught.value)


def test_settings_file_is_optional(builtin_copy: Path) -> None:
    (builtin_copy / "instgenie.json").unlink()
    assert load(builtin_copy).settings == ModelSettings("model", 50, 1.0, 4096, 64)  # the encoder has 64 positions


BREAKS: dict[str, Callable[[Path], object]] = {
    "no index": lambda folder: (folder / "model_index.json").unlink(),
    "index is no JSON": lambda folder: (folder / "model_index.json").write_text("{"),
    "index is a list": lambda folder: (folder / "model_index.json").write_text("[]"),
    "index without vae": lambda folder: edit_json(folder / "model_index.json", lambda c: c.pop("vae")),
    "index with a bare class": lambda folder: edit_json(folder / "model_index.json", lambda c: c.update(vae="X")),
    "no transformer": lambda folder: shutil.rmtree(folder / "transformer"),
    "no weights": lambda folder: (folder / "transformer" / WEIGHTS).unlink(),
    "weights cut short": lambda folder: cut(folder / "transformer" / WEIGHTS),
    "weights of no format": lambda folder: (folder / "vae" / WEIGHTS).write_bytes(b"weights"),
    "a weight is missing": lambda folder: drop_weight(folder / "transformer" / WEIGHTS, "proj_out.weight"),
    "an autoencoder weight is missing": lambda folder: drop_weight(folder / "vae" / WEIGHTS, "decoder.bias"),
    "an encoder weight is missing": lambda folder: drop_weight(
        folder / "text_encoder" / "model.safetensors", "embeddings.word_embeddings.weight"
    ),
    "weights of another shape": lambda folder: edit_json(
        folder / "transformer" / "config.json", lambda c: c.update(num_attention_heads=4)
    ),
    "config is no JSON": lambda folder: (folder / "transformer" / "config.json").write_text("{"),
    "no tokenizer": lambda folder: shutil.rmtree(folder / "tokenizer"),
    "no text encoder": lambda folder: shutil.rmtree(folder / "text_encoder"),
    "no scheduler": lambda folder: shutil.rmtree(folder / "scheduler"),
    "scheduler is no JSON": lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("?"),
    "no steps": lambda folder: edit_json(folder / "instgenie.json", lambda c: c.update(steps=0)),
    "unknown setting": lambda folder: edit_json(folder / "instgenie.json", lambda c: c.update(stepps=3)),
    "nameless": lambda folder: edit_json(folder / "instgenie.json", lambda c: c.update(name=None)),
    "guidance is not a number": lambda folder: edit_json(
        folder / "instgenie.json", lambda c: c.update(guidance=float("nan"))
    ),
    "too many text tokens": lambda folder: edit_json(folder / "instgenie.json", lambda c: c.update(text_tokens=65)),
    "no text positions": lambda folder: edit_json(
        folder / "text_encoder" / "config.json", lambda c: c.update(max_position_embeddings=0)
    ),
    "RoPE axes of another sum": lambda folder: edit_json(
        folder / "transformer" / "config.json", lambda c: c.update(axes_dims_rope=[4, 4, 6])
    ),
    "RoPE axes are no list": lambda folder: edit_json(
        folder / "transformer" / "config.json", lambda c: c.update(axes_dims_rope=None)
    ),
    "schedule with a null shift": lambda folder: edit_json(
        folder / "scheduler" / "scheduler_config.json", lambda c: c.update(shift=None)
    ),
    "schedule with equal bases": lambda folder: edit_json(
        folder / "scheduler" / "scheduler_config.json", lambda c: c.update(base_image_seq_len=4096)
    ),
    "schedule of other timesteps": lambda folder: edit_json(
        folder / "scheduler" / "scheduler_config.json", lambda c: c.update(num_train_timesteps=500)
    ),
    "guidance input that is neither there nor not": lambda folder: edit_json(
        folder / "transformer" / "config.json", lambda c: c.update(guidance_embeds=None)
    ),
    "encoder configuration of another type": lambda folder: edit_json(
        folder / "text_encoder" / "config.json", lambda c: c.update(hidden_size="x")
    ),
    "tokenizer of another form": lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text('{"model": 1}'),
    "token without an embedding": lambda folder: edit_json(
        folder / "tokenizer" / "tokenizer.json", lambda c: c["model"]["vocab"].update(q=5000)
    ),
    "a weight too many": lambda folder: add_weight(folder / "transformer" / WEIGHTS, "proj_out.scale"),
    "settings are a list": lambda folder: (folder / "instgenie.json").write_text("[]"),
    "settings are bytes": lambda folder: (folder / "instgenie.json").write_bytes(b"\xff\xfe"),
}


def cut(path: Path) -> None:
    """Keep the first half of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def add_weight(path: Path, name: str) -> None:
    """Put a tensor in that no part of the model is."""
    tensors = load_file(path)
    save_file(tensors | {name: torch.zeros(3)}, path, metadata={"format": "pt"})


def drop_weight(path: Path, name: str) -> None:
    """Leave one tensor out."""
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("what", BREAKS)
def test_broken_folder(builtin_copy: Path, what: str) -> None:
    BREAKS[what](builtin_copy)
    with pytest.raises(CheckpointError) as caught:
        load(builtin_copy)
    assert str(builtin_copy) in str(caught.value)


@pytest.mark.parametrize("change", [{"out_channels": 16}, {"patch_size": 2}], ids=str)
def test_velocity_of_another_width(builtin_copy: Path, change: dict[str, Any]) -> None:
    transformer = FluxTransformer2DModel.from_pretrained(builtin_copy / "transformer", low_cpu_mem_usage=False)
    FluxTransformer2DModel(**(dict(transformer.config) | change)).save_pretrained(builtin_copy / "transformer")
    with pytest.raises(CheckpointError, match=r"give \d+ channels, a token of this autoencoder has 8") as caught:
        load(builtin_copy)
    assert str(builtin_copy / "transformer" / "config.json") in str(caught.value)


def test_pooler_of_a_sentence_encoder_is_not_wanted(builtin_copy: Path, builtin_kind: Checkpoint) -> None:
    add_weight(builtin_copy / "text_encoder" / "model.safetensors", "pooler.dense.bias")
    (prompt,), (expected,) = load(builtin_copy).prompts.encode(["a"]), builtin_kind.prompts.encode(["a"])
    assert torch.equal(prompt.states, expected.states)


def test_code_of_a_folder_is_refused_without_asking(
    builtin_copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = {"auto_map": {"AutoTokenizer": ["code.Own", None]}, "tokenizer_class": "Own"}
    edit_json(builtin_copy / "tokenizer" / "tokenizer_config.json", lambda c: c.update(code))
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked on stdin"))
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(builtin_copy)
    assert "Do you wish to run" not in capfd.readouterr().out


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_flux_token_without_an_embedding(flux_copy: Path, part: str) -> None:
    edit_json(flux_copy / part / "tokenizer.json", lambda c: c["model"]["vocab"].update(q=5000))
    with pytest.raises(CheckpointError, match="token 5000 is beyond") as caught:
        load(flux_copy)
    assert str(flux_copy / part) in str(caught.value)


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2"])
def test_flux_without_its_second_text_encoder(flux_copy: Path, part: str) -> None:
    shutil.rmtree(flux_copy / part)
    with pytest.raises(CheckpointError) as caught:
        load(flux_copy)
    assert str(flux_copy / part) in str(caught.value)


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["vae", "text_encoder", "transformer", "scheduler"])
def test_class_that_is_not_known(builtin_copy: Path, part: str) -> None:
    edit_json(builtin_copy / "model_index.json", lambda c: c.update({part: ["somewhere", "Unheard2DModel"]}))
    with pytest.raises(CheckpointError, match="'Unheard2DModel' is not known") as caught:
        load(builtin_copy)
    assert str(builtin_copy) in str(caught.value)


@pytest.mark.parametrize(
    "option", [{"time_shift_type": "linear"}, {"use_karras_sigmas": True}, {"shift_terminal": 0.02}], ids=str
)
def test_schedule_that_is_not_known(builtin_copy: Path, option: dict[str, Any]) -> None:
    edit_json(builtin_copy / "scheduler" / "scheduler_config.json", lambda c: c.update(option))
    with pytest.raises(CheckpointError, match=next(iter(option))) as caught:
        load(builtin_copy)
    assert str(builtin_copy) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"shift": None},
        {"use_dynamic_shifting": "no"},
        {"base_image_seq_len": "256"},
        {"max_image_seq_len": 256},
        {"base_shift": None},
        {"max_shift": float("nan")},
    ],
    ids=str,
)
def test_schedule_outside_its_limits(builtin_copy: Path, change: dict[str, Any]) -> None:
    path = builtin_copy / "scheduler" / "scheduler_config.json"
    edit_json(path, lambda c: c.update(change))
    with pytest.raises(CheckpointError, match=rf"{next(iter(change))}: .*{next(iter(change.values()))}") as caught:
        load(builtin_copy)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"steps": True},
        {"steps": 1001},
        {"canvas_tokens": -1},
        {"text_tokens": "8"},
        {"guidance": "much"},
        {"guidance": -1},
        {"guidance": float("inf")},
        {"name": ""},
        {"draws": "cat"},
        {"draws": ("cat", 7)},
        {"draws": (" ",)},
        {"draws": ("cat",) * 2001},
        {"draws": ("ä" * 7_501,) * 2},
    ],
    ids=str,
)
def test_settings_outside_their_limits(settings: dict[str, Any]) -> None:
    (name,) = settings
    values: dict[str, Any] = {"name": "model", "steps": 4, "guidance": 1.0} | settings
    with pytest.raises(CheckpointError, match=name):
        ModelSettings(**values)


def test_what_was_measured_on_other_weights_is_not_used(
    builtin_copy: Path, builtin_kind: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    setting = {"halo": 1, "refreshes": 1, "steps": 20, "psnr_db": 38.5, "cost": 0.4, "step_cache": 1}

    def measured(about: dict[str, str]) -> int:
        (builtin_copy / FIDELITY_FILE).write_text(json.dumps({"about": about, "settings": [setting]}))
        return len(load(builtin_copy).measured)

    assert measured({"revision": builtin_kind.revision}) == measured({}) == 1
    assert not caplog.records
    assert measured({"revision": "0" * 32}) == 0
    assert "was measured for other weights, of revision 0000" in caplog.text


def test_revision_is_that_of_the_content(builtin_copy: Path, builtin_kind: Checkpoint) -> None:
    assert load(builtin_copy).revision == builtin_kind.revision
    assert load(builtin_copy, torch.bfloat16).revision == builtin_kind.revision  # the dtype has its own entry in keys
    edit_json(builtin_copy / "instgenie.json", lambda c: c.update(steps=7, guidance=2.0, draws=[]))
    assert load(builtin_copy).revision == builtin_kind.revision


CHANGES: dict[str, Callable[[Path], object]] = {
    "transformer weight": lambda folder: flip_last_byte(folder / "transformer" / WEIGHTS),
    "autoencoder weight": lambda folder: flip_last_byte(folder / "vae" / WEIGHTS),
    "encoder weight": lambda folder: flip_last_byte(folder / "text_encoder" / "model.safetensors"),
    "schedule": lambda folder: edit_json(folder / "scheduler" / "scheduler_config.json", lambda c: c.update(shift=2.0)),
    "tokenizer": lambda folder: edit_json(
        folder / "tokenizer" / "tokenizer.json", lambda c: c["model"]["vocab"].update(a=9, b=8)
    ),
    "number of text tokens": lambda folder: edit_json(folder / "instgenie.json", lambda c: c.update(text_tokens=5)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_an_activation_changes_the_revision(
    builtin_copy: Path, builtin_kind: Checkpoint, what: str
) -> None:
    CHANGES[what](builtin_copy)
    assert load(builtin_copy).revision != builtin_kind.revision


@pytest.mark.parametrize("part", ["text_encoder_2/model.safetensors", "vae/" + WEIGHTS])
def test_flux_weights_change_the_revision(flux_copy: Path, flux_fill_kind: Checkpoint, part: str) -> None:
    flip_last_byte(flux_copy / part)
    assert load(flux_copy).revision != flux_fill_kind.revision


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "transformer/.DS_Store",
        "transformer/weights.fp16.safetensors",
        "transformer/model.safetensors",
        "text_encoder/model.safetensors.index.json",
        "vae/model.safetensors.index.json",
    ],
)
def test_files_that_are_not_loaded_make_no_difference(builtin_copy: Path, builtin_kind: Checkpoint, name: str) -> None:
    (builtin_copy / name).write_bytes(b"note")
    assert load(builtin_copy).revision == builtin_kind.revision


def test_folders_name_makes_no_difference(builtin_copy: Path, builtin_kind: Checkpoint) -> None:
    assert load(builtin_copy.rename(builtin_copy.with_name("renamed"))).revision == builtin_kind.revision


def test_sharded_weights(builtin_copy: Path, builtin_kind: Checkpoint) -> None:
    shutil.rmtree(builtin_copy / "transformer")
    builtin_kind.forward.transformer.save_pretrained(builtin_copy / "transformer", max_shard_size="100KB")
    shards = sorted((builtin_copy / "transformer").glob("*.safetensors"))
    assert len(shards) > 1
    before = load(builtin_copy)
    flip_last_byte(shards[-1])
    assert load(builtin_copy).revision != before.revision


def test_shards_beside_a_whole_file_change_the_revision(builtin_copy: Path, builtin_kind: Checkpoint) -> None:
    """Diffusers reads the shards then."""
    whole = (builtin_copy / "transformer" / WEIGHTS).read_bytes()
    builtin_kind.forward.transformer.save_pretrained(builtin_copy / "transformer", max_shard_size="100KB")
    (builtin_copy / "transformer" / WEIGHTS).write_bytes(whole)
    before = load(builtin_copy)
    flip_last_byte(max((builtin_copy / "transformer").glob("*-of-*.safetensors")))
    assert load(builtin_copy).revision != before.revision


def test_files_are_hashed_by_the_given_function(builtin_copy: Path, builtin_kind: Checkpoint) -> None:
    hashed: list[str] = []

    def hash_one(path: Path) -> str:
        hashed.append(path.relative_to(builtin_copy).as_posix())
        return hash_file(path)

    checkpoint = load_checkpoint(builtin_copy, torch.float32, CPU, hash_one)
    assert checkpoint.revision == builtin_kind.revision
    assert {"transformer/" + WEIGHTS, "vae/" + WEIGHTS, "text_encoder/model.safetensors"} <= set(hashed)


def test_file_that_cannot_be_hashed(builtin_copy: Path) -> None:
    def hash_one(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(CheckpointError, match="Permission denied") as caught:
        load_checkpoint(builtin_copy, torch.float32, CPU, hash_one)
    assert isinstance(caught.value.__cause__, PermissionError)

import json
import re

import h5py
import huggingface_hub
import numpy as np
import pytest

import igpt_keras
from igpt_keras import ColorPalette, ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.convert import read_huggingface, save_huggingface
from igpt_keras.tokenizers import load_tokenizer


@pytest.fixture
def folder(config, palette, randomized, tmp_path):
    path = tmp_path / "model"
    randomized(ImageGPT(config, tokenizer=palette)).save_to_preset(path, training={"epochs": 3})
    return path


@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_loading_gives_the_same_model_back(config, palette, randomized, tmp_path, objective):
    generative = ImageGPT(
        config, objective, mask_probability=0.2, tokenizer=palette, dtype="float32"
    )
    classifier = ImageGPTClassifier(config, 3, objective, class_names=["a", "b", "c"])
    for name, model in (("generative", generative), ("classifier", classifier)):
        randomized(model).save_to_preset(tmp_path / name)
        loaded = igpt_keras.load(tmp_path / name)
        assert type(loaded) is type(model)
        assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
        for expected, weight in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)


def test_a_folder_explains_itself(folder, palette):
    assert {path.name for path in folder.iterdir()} == {
        "igpt.json",
        "model.weights.h5",
        "palette.npy",
        "tokenizer.json",
        "training.json",
        "README.md",
    }
    description = json.loads((folder / "igpt.json").read_text())
    assert description["class_name"] == "ImageGPT"
    assert description["settings"]["config"]["hidden_dim"] == 16
    assert json.loads((folder / "training.json").read_text()) == {"epochs": 3}
    np.testing.assert_array_equal(np.load(folder / "palette.npy"), palette.colors)


@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_the_card_has_the_hub_s_metadata_and_code_that_runs(config, palette, objective, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    model = ImageGPT(config, objective, tokenizer=palette)
    classifier = ImageGPTClassifier(config, 3, objective, tokenizer=palette)
    tasks = {model: "unconditional-image-generation", classifier: "image-classification"}
    for each, task in tasks.items():
        each.save_to_preset(tmp_path / "model", training={"epochs": 3}, overwrite=True)
        card = huggingface_hub.ModelCard.load(tmp_path / "model" / "README.md")
        assert card.data.to_dict() == {
            "library_name": "keras",
            "pipeline_tag": task,
            "tags": ["image-gpt", "igpt-keras"],
        }
        assert f"| parameters | {each.count_params():,} |" in card.text
        assert "| epochs | 3 |" in card.text
        (code,) = re.findall("```python\n(.*?)```", card.text, re.DOTALL)
        names = {"images": images}
        exec(code.replace("hf://OWNER/NAME", str(tmp_path / "model")), names)
        made = names[{"ar": "completed", "bert": "features"}[objective]] if each is model else None
        assert len(names["classes"] if made is None else made) == len(images)


def test_a_folder_to_publish_holds_half_precision_and_no_optimizer(config, randomized, tmp_path):
    model = randomized(ImageGPT(config))
    model.compile()
    model.optimizer.build(model.trainable_variables)
    model.save_to_preset(tmp_path / "whole")
    model.save_to_preset(tmp_path / "half", weights_dtype="float16")
    loaded = igpt_keras.load(tmp_path / "half")
    for weight, before in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, before.astype("float16").astype("float32"))
    assert {path.name for path in (tmp_path / "half").iterdir()} == {
        "igpt.json",
        "model.weights.h5",
        "README.md",
    }
    with h5py.File(tmp_path / "half" / "model.weights.h5") as half:
        assert "optimizer" not in half
        stored = []
        half.visititems(lambda _, found: stored.append(getattr(found, "dtype", None)))
        assert set(stored) == {None, np.dtype("float16")}


def test_weights_too_large_for_half_precision_are_refused(config, tmp_path):
    model = ImageGPT(config)
    model.token_head.kernel.assign(np.full(model.token_head.kernel.shape, 7e4))
    with pytest.raises(InputError, match="too large for float16"):
        model.save_to_preset(tmp_path / "half", weights_dtype="float16")
    with pytest.raises(InputError, match="weights_dtype must be \"float16\" or None, got 'half'"):
        model.save_to_preset(tmp_path / "half", weights_dtype="half")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_refused_unless_told_otherwise(config, folder):
    before = (folder / "model.weights.h5").read_bytes()
    with pytest.raises(FileExistsError, match="model exists already"):
        ImageGPT(config).save_to_preset(folder)
    assert (folder / "model.weights.h5").read_bytes() == before
    ImageGPT(config).save_to_preset(folder, overwrite=True)
    assert igpt_keras.load(folder).tokenizer is None


def edit_settings(folder, **changes):
    path = folder / "igpt.json"
    description = json.loads(path.read_text())
    description["settings"]["config"].update(changes)
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "igpt.json").write_text("{"), "igpt.json is not valid JSON"),
        (lambda f: (f / "igpt.json").write_text("{}"), "igpt.json does not describe a model"),
        (
            lambda f: (f / "igpt.json").write_text('{"format_version": 2}'),
            "format_version 2; this version reads 1",
        ),
        (lambda f: (f / "model.weights.h5").unlink(), "model.weights.h5 is missing"),
        (lambda f: (f / "model.weights.h5").write_bytes(b"x" * 99), "weights.h5 is damaged"),
        (lambda f: edit_settings(f, num_layers=3), "weights.h5 is damaged or .* another shape"),
        (lambda f: edit_settings(f, hidden_dim=8), "weights.h5 is damaged or .* another shape"),
        (lambda f: edit_settings(f, hidden_dim=9), "hidden_dim=9 and num_heads=2"),
        (lambda f: (f / "palette.npy").write_bytes(b""), "palette.npy is not a .npy file"),
    ],
)
def test_a_damaged_folder_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        igpt_keras.load(folder)


def test_truncated_weights_are_named(folder):
    weights = folder / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"model.weights.h5 is damaged"):
        igpt_keras.load(folder)


def test_home_is_expanded(config, palette, randomized, tokens, tmp_path, monkeypatch):
    """Wherever a path of a model or a tokenizer is given; nothing is called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    model = randomized(ImageGPT(config, tokenizer=palette))
    expected = np.asarray(model(tokens))
    model.save_to_preset("~/folder")
    model.save("~/file.keras")
    model.save_weights("~/x.weights.h5")
    save_huggingface(model, "~/hf")
    palette.save("~/palette.npy")
    palette.save_to_preset("~/folder")
    for name in ("folder", "file.keras", "hf"):
        np.testing.assert_array_equal(np.asarray(igpt_keras.load(f"~/{name}")(tokens)), expected)
    again = ImageGPT.from_preset("~/folder", load_weights=False)
    again.load_weights("~/x.weights.h5")
    np.testing.assert_array_equal(np.asarray(again(tokens)), expected)
    assert read_huggingface("~/hf").class_name == "ImageGPT"
    for loaded in (
        ColorPalette.load("~/palette.npy"),
        ColorPalette.from_preset("~/folder"),
        load_tokenizer("~/folder"),
    ):
        assert loaded.fingerprint() == palette.fingerprint()
    assert not (tmp_path / "~").exists()

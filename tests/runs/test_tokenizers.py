"""Runs with tokenizers of any kind and grid: channels of pixels, and blocks of pixels."""

import dataclasses
import math
import shutil

import numpy as np
import pytest

import igpt_keras
from igpt_keras import ColorPalette, ImageGPT, ImageGPTConfig, InputError, RGBTokenizer
from igpt_keras.data import open_data, read_images, tokenize
from igpt_keras.report.curves import loss_curves
from igpt_keras.report.runs import find_runs, read_findings
from igpt_keras.runs import DataOptions, Evaluate, Finetune, Pretrain, Probe
from igpt_keras.runs.folder import read_run
from igpt_keras.runs.tokenizers import read_tokenizer
from tests.tokenizers.mean_blocks import MeanBlocks

LEVELS = [0, 60, 120, 200]
SIZES = {"num_layers": 1, "hidden_dim": 16, "num_heads": 1}
SETTINGS = Pretrain.Settings(**SIZES, tokenizer="rgb", image_size=8, steps=24, snapshots=1)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """The folder of a tokenizer of 4 × 4 tokens for 8 × 8 pixels."""
    folder = tmp_path_factory.mktemp("tokenizers") / "blocks"
    folder.mkdir()
    MeanBlocks(8, levels=LEVELS).save_to_preset(folder)
    return folder


@pytest.fixture
def model_folder(tmp_path):
    model = ImageGPT(ImageGPTConfig(4, 8, 16, 1, 1), tokenizer=ColorPalette(np.eye(8, 3)))
    return model.save_to_preset(tmp_path / "model")


class TestNames:
    def test_a_kind_without_fitting(self):
        assert read_tokenizer("rgb", 8).grid == (8, 24)
        assert read_tokenizer("rgb").image_size == 32

    def test_a_folder(self, blocks):
        found = read_tokenizer(str(blocks))
        assert (type(found), found.image_size) == (MeanBlocks, 8)
        np.testing.assert_array_equal(found.levels, LEVELS)

    def test_a_folder_is_not_taken_for_a_kind_that_has_to_be_fitted(
        self, blocks, tmp_path, monkeypatch
    ):
        shutil.copytree(blocks, tmp_path / "mean_blocks")
        monkeypatch.chdir(tmp_path)
        np.testing.assert_array_equal(read_tokenizer("mean_blocks").levels, LEVELS)

    def test_a_palette_is_for_images_of_any_size(self, palette, model_folder, tmp_path):
        palette.save(tmp_path / "palette.npy")
        found = read_tokenizer(str(tmp_path / "palette.npy"), default_size=6)
        assert (found.fingerprint(), found.image_size) == (palette.fingerprint(), 6)
        assert read_tokenizer(str(model_folder), default_size=6).image_size == 4
        assert read_tokenizer(str(model_folder), 5).grid == (5, 5)

    def test_a_model_in_another_format(self, palette, tmp_path):
        model = ImageGPT(ImageGPTConfig(4, 8, 16, 1, 1), tokenizer=palette)
        model.save(tmp_path / "model.keras")
        found = read_tokenizer(str(tmp_path / "model.keras"))
        assert (found.fingerprint(), found.image_size) == (palette.fingerprint(), 4)

    def test_what_cannot_be_used_is_named(self, blocks, tmp_path):
        (tmp_path / "tokenizer.json").write_text('{"kind": "rgb", "config": {"size": 4}}')
        ImageGPT(ImageGPTConfig(4, 8, 16, 1, 1)).save_to_preset(tmp_path / "tokens")
        for source, size, message in (
            (blocks, 16, "image_size=16, got a MeanBlocks for image_size=8"),
            ("color_palette", 8, "tokenizer=color_palette has to be fitted first; give the path"),
            (tmp_path, None, "tokenizer.json does not describe a tokenizer"),
            (tmp_path / "tokens", None, "tokens has no tokenizer for images"),
        ):
            with pytest.raises(InputError, match=message):
                read_tokenizer(str(source), size)
        with pytest.raises(FileNotFoundError, match="must be rgb, .*; .*nowhere does not exist"):
            read_tokenizer(str(tmp_path / "nowhere"))


class TestSettings:
    def test_image_size_grid_and_vocabulary_are_the_tokenizers(self, blocks):
        settings = Pretrain.Settings(**SIZES, tokenizer=str(blocks), steps=1).completed()
        assert (settings.image_size, settings.num_colors) == (8, None)
        config = settings.config(settings.read_tokenizer())
        assert config == ImageGPTConfig(8, 4, 16, 1, 1, grid=(4, 4))
        assert settings.completed() == settings

    def test_the_preset_says_the_size_of_a_tokenizer_of_any_size(self):
        settings = Pretrain.Settings(tokenizer="rgb", preset="image_gpt_tiny", steps=1).completed()
        config = settings.config(settings.read_tokenizer())
        assert (config.image_size, config.grid, config.vocabulary_size) == (32, (32, 96), 256)

    def test_a_palette_has_no_grid_of_its_own(self, palette, tmp_path):
        palette.save(tmp_path / "palette.npy")
        settings = dataclasses.replace(SETTINGS, tokenizer=str(tmp_path / "palette.npy"))
        assert settings.config(settings.read_tokenizer()) == ImageGPTConfig(8, 8, 16, 1, 1)

    def test_a_row_of_sparse_attention_is_a_row_of_the_image(self):
        settings = dataclasses.replace(SETTINGS, attention="strided", axial_positions=True)
        config = settings.config(settings.read_tokenizer())
        assert (config.pattern(0).stride, config.sequence_length) == (24, 192)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"num_colors": 8}, "num_colors is the size of a palette .* tokenizer=rgb"),
            (
                {"attention": "strided", "stride": 7},
                "stride must divide the number of tokens, 192, got 7; a row .* has 24",
            ),
            ({"hidden_dim": 15, "num_heads": 2}, "hidden_dim=15 and num_heads=2"),
            ({"tokenizer": "blocks", "image_size": 16}, "image_size=16, got .* image_size=8"),
        ],
    )
    def test_what_does_not_fit_leaves_no_folder(
        self, blocks, tmp_path, monkeypatch, change, message
    ):
        monkeypatch.chdir(blocks.parent)
        settings = dataclasses.replace(SETTINGS, **change)
        with pytest.raises(InputError, match=message):
            Pretrain.check(settings, "digits")
        with pytest.raises(InputError, match=message):
            Pretrain.open(settings, "digits", tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestOpened:
    def test_a_run_says_what_it_uses(self, tmp_path):
        settings = dataclasses.replace(SETTINGS, attention="strided")
        run = Pretrain.open(settings, "digits", tmp_path / "run")
        assert run.memory.config == ImageGPTConfig(
            8, 256, 16, 1, 1, grid=(8, 24), attention="strided"
        )
        options = read_run(run.output, "pretrain")["options"]
        assert (options["tokenizer"], options["image_size"]) == ("rgb", 8)
        assert options["num_colors"] is None
        resumed = Pretrain.open(settings, "digits", run.output, resume=True)
        assert (resumed.memory.config, resumed.tokenizer.grid) == (run.memory.config, (8, 24))

    def test_it_keeps_its_tokenizer(self, blocks, tmp_path):
        shutil.copytree(blocks, tmp_path / "blocks")
        settings = dataclasses.replace(SETTINGS, tokenizer=str(tmp_path / "blocks"))
        Pretrain.open(settings, "digits", tmp_path / "run")
        shutil.rmtree(tmp_path / "blocks")
        resumed = Pretrain.open(settings, "digits", tmp_path / "run", resume=True)
        np.testing.assert_array_equal(resumed.tokenizer.levels, LEVELS)


class TestData:
    def test_masks_are_of_tokens(self):
        stream = DataOptions("digits").stream(RGBTokenizer(8), batch_size=64, mask_probability=0.25)
        batch = next(iter(stream.dataset()))
        assert batch["tokens"].shape == batch["masked"].shape == (64, 192)
        # Channels of a pixel are masked one by one, not together.
        shares = np.asarray(batch["masked"]).reshape(64, 64, 3).mean(axis=(0, 1))
        np.testing.assert_allclose(shares, 0.25, atol=0.03)

    def test_tokens_are_cached(self, tmp_path):
        split, tokenizer = open_data("digits").test, RGBTokenizer(8)
        first = tokenize(split, tokenizer, cache=tmp_path)
        again = tokenize(split, tokenizer, cache=tmp_path)
        assert (again.tokens.dtype, again.tokens.shape) == (np.uint16, (360, 192))
        np.testing.assert_array_equal(first.tokens, again.tokens)
        images = read_images(split, 8).images
        np.testing.assert_array_equal(tokenizer.detokenize(again.tokens), images)
        assert tokenize(split, MeanBlocks(8), cache=tmp_path).tokens.shape == (360, 16)


@pytest.fixture(scope="module", params=["rgb", "blocks"])
def pretrained(request, blocks, tmp_path_factory):
    """A model and its result, with a token for each channel or for four pixels."""
    name = "rgb" if request.param == "rgb" else str(blocks)
    output = tmp_path_factory.mktemp("runs") / request.param
    settings = dataclasses.replace(SETTINGS, tokenizer=name, batch_size=32, learning_rate=0.01)
    return output, Pretrain.open(settings, "digits", output).run()


@pytest.mark.slow
class TestVerbs:
    def test_pretraining_learns(self, pretrained):
        output, result = pretrained
        model = igpt_keras.load(output)
        uniform = math.log(model.config.vocabulary_size)
        assert result.metrics["validation_loss"] < 0.9 * uniform
        tokens = model.tokenizer.tokenize(read_images(open_data("digits").test, 8).images)
        nll = model.per_image(tokens)["nll"].numpy().mean()
        assert result.metrics["test_loss"] == pytest.approx(nll, rel=1e-4)
        bits = result.metrics["test_bits_per_dimension"]
        if output.name == "rgb":
            assert bits == pytest.approx(nll / math.log(2), rel=1e-4)
        else:
            assert bits is None
        for name in ("completions", "samples"):
            assert (output / f"{name}.png").is_file()

    def test_evaluation(self, pretrained, tmp_path):
        output, trained = pretrained
        result = Evaluate.open(Evaluate.Settings(model=output), "digits", tmp_path / "run").run()
        config, metrics = igpt_keras.load(output).config, result.metrics
        assert metrics["test_loss"] == pytest.approx(trained.metrics["test_loss"], rel=1e-4)
        bits = metrics["test_loss"] / math.log(2) * config.sequence_length
        assert metrics["test_bits_per_pixel"] == pytest.approx(bits / 64)
        if output.name == "rgb":
            assert metrics["test_bits_per_dimension"] == pytest.approx(bits / (64 * 3))
        baselines = metrics["baselines"]["test"]
        assert baselines["uniform"] == pytest.approx(math.log(config.vocabulary_size))
        assert baselines["left token"] < baselines["unigram"] < baselines["uniform"]
        (panel,) = loss_curves(read_findings(find_runs([output, tmp_path / "run"])))
        tokens = "8×24 tokens of 256 values" if output.name == "rgb" else "4×4 tokens of 4 values"
        assert panel.title == f"AR on digits, 8×8 pixels, {tokens}"

    def test_probes_and_fine_tuning(self, pretrained, tmp_path):
        output = pretrained[0]
        settings = Probe.Settings(model=output, layers=[1])
        probed = Probe.open(settings, "digits", tmp_path / "probe").run()
        assert probed.metrics["test_accuracy"] > 0.2
        settings = Probe.Settings(model=output, baseline="tokens")
        baseline = Probe.open(settings, "digits", tmp_path / "baseline").run()
        assert baseline.metrics["test_accuracy"] > 0.4
        for from_scratch in (False, True):
            settings = Finetune.Settings(model=output, epochs=1, from_scratch=from_scratch)
            folder = tmp_path / f"finetuned-{from_scratch}"
            tuned = Finetune.open(settings, "digits", folder).run()
            assert tuned.metrics["test_generative_loss"] > 0
            assert igpt_keras.load(folder).config == igpt_keras.load(output).config

    def test_bert_on_two_devices(self, pretrained, tmp_path):
        output, result = pretrained
        settings = dataclasses.replace(
            SETTINGS,
            objective="bert",
            tokenizer=str(output),
            strategy="mirrored",
            steps=2,
            batch_size=32,
        )
        trained = Pretrain.open(settings, "digits", tmp_path / "bert").run()
        assert trained.metrics["test_bits_per_dimension"] is None
        model = igpt_keras.load(tmp_path / "bert")
        assert model.config == igpt_keras.load(output).config
        assert model.tokenizer.fingerprint() == igpt_keras.load(output).tokenizer.fingerprint()

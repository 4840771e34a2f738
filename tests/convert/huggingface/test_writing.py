import dataclasses
import json

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError, RGBTokenizer
from igpt_keras.convert import image_processor_tokens, save_huggingface
from igpt_keras.tokenizers import register_tokenizer
from tests.convert.huggingface.files import (
    CAUSAL,
    CLASSIFICATION,
    TOLERANCE,
    WEIGHTS,
    largest_deviation,
    load_huggingface,
    numpy,
    random_images,
    start_first,
)
from tests.tokenizers.mean_blocks import MeanBlocks


@register_tokenizer("inverted")
class Inverted(MeanBlocks):
    """As many tokens as pixels, which are no colors."""

    @property
    def grid(self):
        return (self.image_size, self.image_size)


class TestSave:
    @pytest.mark.parametrize("source", [CAUSAL, CLASSIFICATION])
    def test_round_trip_is_bit_equal(self, source, tmp_path):
        written = save_huggingface(load_huggingface(source), tmp_path / "new")
        original, copy = load_file(source / WEIGHTS), load_file(written / WEIGHTS)
        assert copy.keys() == original.keys()
        for name, tensor in original.items():
            assert copy[name].dtype == tensor.dtype
            assert np.array_equal(copy[name], tensor), name
        with safetensors.safe_open(written / WEIGHTS, "np") as file:
            assert file.metadata() == {"format": "pt"}

    @pytest.mark.parametrize("source", [CAUSAL, CLASSIFICATION])
    def test_config_is_that_of_transformers(self, source, tmp_path):
        written = save_huggingface(load_huggingface(source), tmp_path / "new")
        theirs = json.loads((source / "config.json").read_text())
        ours = json.loads((written / "config.json").read_text())
        assert ours == {name: theirs.get(name) for name in ours}
        for name in ("model_type", "architectures", *(k for k in theirs if k.startswith("n_"))):
            assert name in ours

    def test_preprocessor_is_that_of_transformers(self, causal, tmp_path):
        name = "preprocessor_config.json"
        written = save_huggingface(causal, tmp_path / "new")
        assert json.loads((written / name).read_text()) == json.loads((CAUSAL / name).read_text())

    def test_no_palette_no_preprocessor(self, classifier, tmp_path):
        written = save_huggingface(classifier, tmp_path / "new")
        assert sorted(file.name for file in written.iterdir()) == ["config.json", WEIGHTS]

    def test_without_biases(self, model, tokens, tmp_path):
        folder = save_huggingface(model, tmp_path / "new")
        assert not load_file(folder / WEIGHTS)["transformer.h.0.mlp.c_fc.bias"].any()
        again = load_huggingface(folder)
        assert again.config == model.config
        assert again.count_params() == model.count_params()
        assert np.array_equal(numpy(again(tokens)), numpy(model(tokens)))
        assert np.array_equal(again.tokenizer.colors, model.tokenizer.colors)

    def test_classifier(self, unshifted, tokens, tmp_path):
        written = save_huggingface(unshifted, tmp_path / "new")
        again = load_huggingface(written)
        assert again.class_names == unshifted.class_names
        assert np.array_equal(numpy(again(tokens)), numpy(unshifted(tokens)))
        settings = json.loads((written / "config.json").read_text())
        assert settings["label2id"] == {"ship": 0, "frog": 1, "Maus": 2}

    def test_classifier_of_a_model_folder(self, tmp_path):
        """The folder in between keeps how the classifier reads, and all weights."""
        load_huggingface(CLASSIFICATION).save_to_preset(tmp_path / "folder")
        written = save_huggingface(igpt_keras.load(tmp_path / "folder"), tmp_path / "new")
        original, copy = load_file(CLASSIFICATION / WEIGHTS), load_file(written / WEIGHTS)
        assert all(np.array_equal(copy[name], tensor) for name, tensor in original.items())

    def test_a_classifier_behind_a_start_vector_has_no_counterpart(self, model, tmp_path):
        classifier = ImageGPTClassifier.from_preset(model, 3)
        with pytest.raises(InputError, match="start vector .* shift_right=False and generative"):
            save_huggingface(classifier, tmp_path / "new")
        assert not list(tmp_path.iterdir())

    def test_half_precision_model_is_written_in_float32(self, config, tmp_path):
        model = ImageGPT(config, dtype="bfloat16")
        written = save_huggingface(model, tmp_path / "new")
        assert {t.dtype for t in load_file(written / WEIGHTS).values()} == {np.dtype("float32")}

    def test_bert_has_no_counterpart(self, config, tmp_path):
        model = ImageGPT(config, "bert")
        with pytest.raises(InputError, match='objective="bert"'):
            save_huggingface(model, tmp_path / "new")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("tokenizer", "message"),
        [
            (RGBTokenizer(4), "one token per pixel, got a model with 48 tokens for 4² pixels"),
            (MeanBlocks(4), "one token per pixel, got a model with 4 tokens for 4² pixels"),
            (Inverted(4), "takes a ColorPalette, got a model with a Inverted"),
        ],
    )
    def test_tokens_that_are_not_colors_have_no_counterpart(self, tmp_path, tokenizer, message):
        config = ImageGPTConfig(4, tokenizer.vocabulary_size, 8, 1, 1, grid=tokenizer.grid)
        model = ImageGPT(config, tokenizer=tokenizer)
        with pytest.raises(InputError, match=message):
            save_huggingface(model, tmp_path / "new")
        assert not list(tmp_path.iterdir())

    def test_a_head_before_the_end_has_no_counterpart(self, config, tmp_path):
        model = ImageGPTClassifier(
            config, num_classes=3, layer=1, shift_right=False, generative_weight=0
        )
        with pytest.raises(InputError, match="layer=1"):
            save_huggingface(model, tmp_path / "new")
        assert not list(tmp_path.iterdir())

    def test_existing_folder_stays_unless_overwritten(self, causal, classifier, tmp_path):
        folder = tmp_path / "new"
        save_huggingface(causal, folder)
        with pytest.raises(FileExistsError, match="new"):
            save_huggingface(classifier, folder)
        assert type(load_huggingface(folder)) is ImageGPT
        save_huggingface(classifier, folder, overwrite=True)
        assert type(load_huggingface(folder)) is ImageGPTClassifier
        assert not (folder / "preprocessor_config.json").exists()
        assert list(tmp_path.iterdir()) == [folder]

    def test_full_disk_leaves_nothing(self, causal, tmp_path):
        resource = pytest.importorskip("resource")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OSError, match=f"new: {WEIGHTS} cannot be written"):
                save_huggingface(causal, tmp_path / "new")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.iterdir())


class TestImageProcessor:
    def test_tokens(self, causal, reference):
        tokens = image_processor_tokens(reference["images"], causal.tokenizer, 8)
        assert tokens.dtype == np.int32
        assert np.array_equal(tokens, reference["processed_ids"])

    def test_nearest_colors_of_the_fixture_are_unique(self, causal, reference):
        """So that equality above does not hang on rounding: it has no ties to break."""
        import PIL.Image

        resized = [
            np.asarray(PIL.Image.fromarray(image).resize((8, 8), PIL.Image.Resampling.BILINEAR))
            for image in reference["images"]
        ]
        pixels = np.stack(resized).reshape(-1, 1, 3) / 127.5 - 1
        distances = np.sort(((pixels - causal.tokenizer.colors.astype(float)) ** 2).sum(-1), axis=1)
        assert (distances[:, 1] - distances[:, 0]).min() > 1e-5

    def test_gray_images(self, causal):
        gray = random_images()[..., :1]
        tokens = image_processor_tokens(gray, causal.tokenizer, 8)
        expected = image_processor_tokens(np.repeat(gray, 3, axis=-1), causal.tokenizer, 8)
        assert np.array_equal(tokens, expected)

    @pytest.mark.parametrize(
        "images, message",
        [
            (np.zeros((9, 7, 3), np.uint8), r"\[batch, height, width, 3\]"),
            (np.zeros((1, 9, 7, 3), np.float32), "uint8"),
            (np.zeros((1, 9, 7, 4), np.uint8), "shape"),
        ],
    )
    def test_unusable_images(self, causal, images, message):
        with pytest.raises(InputError, match=message):
            image_processor_tokens(images, causal.tokenizer, 8)


class TestTransformers:
    """What we write, read by Transformers itself."""

    @pytest.mark.parametrize("use_bias", [False, True])
    def test_generative_model(self, torch, config, randomized, tokens, tmp_path, use_bias):
        from transformers import ImageGPTForCausalImageModeling

        model = randomized(ImageGPT(dataclasses.replace(config, use_bias=use_bias)))
        folder = save_huggingface(model, tmp_path / "new")
        theirs, info = ImageGPTForCausalImageModeling.from_pretrained(
            folder, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        with torch.no_grad():
            logits = theirs.eval()(torch.tensor(start_first(model, tokens)).long()).logits
        assert largest_deviation(model(tokens), logits.numpy()) < TOLERANCE

    def test_classifier(self, torch, unshifted, tokens, tmp_path):
        from transformers import ImageGPTForImageClassification

        folder = save_huggingface(unshifted, tmp_path / "new")
        theirs, info = ImageGPTForImageClassification.from_pretrained(
            folder, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert theirs.config.id2label == dict(enumerate(unshifted.class_names))
        with torch.no_grad():
            logits = theirs.eval()(torch.tensor(tokens).long()).logits
        assert largest_deviation(unshifted(tokens), logits.numpy()) < TOLERANCE

    def test_image_processor(self, torch, causal, reference, tmp_path):
        from transformers import ImageGPTImageProcessor

        folder = save_huggingface(causal, tmp_path / "new")
        processor = ImageGPTImageProcessor.from_pretrained(folder)
        batch = processor(list(reference["images"]), return_tensors="pt")
        assert np.array_equal(batch["input_ids"].numpy(), reference["processed_ids"])

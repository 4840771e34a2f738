import sys
from unittest import mock

import numpy as np
import pytest

import igpt_keras
from igpt_keras.errors import InputError, InputWarning
from igpt_keras.evaluation.feature_extractors import (
    ImageFeatureExtractor,
    extract_all,
    feature_extractors,
    open_feature_extractor,
)
from igpt_keras.evaluation.set_distances import SetDistances, kernel_distance


@pytest.fixture(scope="module")
def models(config, randomized, tmp_path_factory):
    """Models of both objectives, and the paths of their folders."""
    colors = np.random.default_rng(1).uniform(-1, 1, (8, 3))

    def write(objective):
        palette = igpt_keras.ColorPalette(colors)
        model = randomized(igpt_keras.ImageGPT(config, objective, tokenizer=palette))
        folder = tmp_path_factory.mktemp(objective) / "model"
        model.save_to_preset(folder)
        return model, folder

    return {objective: write(objective) for objective in ("ar", "bert")}


def images(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("objective", ["ar", "bert"])
def test_features_of_a_model_are_those_of_its_middle_layer(models, objective):
    model, folder = models[objective]
    extractor = open_feature_extractor(f"model:{folder}")
    given = images(5, 4)
    tokens = model.tokenizer.tokenize(given)
    unmasked = {"tokens": tokens, "masked": np.zeros((5, 16), bool)}
    expected = model.features(tokens if objective == "ar" else unmasked, layer=1)
    np.testing.assert_allclose(extractor.extract(given), expected, atol=1e-6)
    # Enlarged images are averaged down to the same.
    large = given.repeat(3, axis=1).repeat(3, axis=2)
    np.testing.assert_allclose(extractor.extract(large), expected, atol=1e-6)
    assert not extractor.is_published
    assert extractor.name == f"layer 1 of {folder}"


def test_a_model_is_identified_by_its_weights_and_its_palette(models, randomized, tmp_path):
    model, folder = models["ar"]
    about = open_feature_extractor(f"model:{folder}").describe()
    model = igpt_keras.load(folder)
    model.save_to_preset(tmp_path / "copy")
    assert open_feature_extractor(f"model:{tmp_path / 'copy'}").describe() == about
    model.tokenizer = igpt_keras.ColorPalette(model.tokenizer.colors[::-1])
    model.save_to_preset(tmp_path / "colors")
    other = open_feature_extractor(f"model:{tmp_path / 'colors'}").describe()
    assert {name for name in about if about[name] != other[name]} == {"tokenizer_digest"}
    randomized(model, seed=9).save_to_preset(tmp_path / "weights")
    assert (
        open_feature_extractor(f"model:{tmp_path / 'weights'}").describe()["digest"]
        != (about["digest"])
    )


def test_all_features_are_extracted_and_counted():
    class Sums(ImageFeatureExtractor):
        name = "sums"

        def extract(self, images):
            return images.sum(axis=(1, 2), dtype=np.int64)

    given, heard = images(7, 4), []
    batches = [given[:4], given[4:4], given[4:]]
    features = extract_all(Sums(), batches, heard.append)
    assert (features.dtype, heard) == (np.float32, [4, 0, 3])
    np.testing.assert_array_equal(features, given.sum(axis=(1, 2), dtype=np.int64))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet:x", "feature extractor must be one of inception, model, got 'resnet'"),
        ("model", "features=model must name a model, such as model:image_gpt_nano"),
        ("inception", "features=inception must name a file of weights, weights-inception-2015"),
    ],
)
def test_extractors_that_do_not_exist_are_named(spec, message):
    with pytest.raises(InputError, match=message):
        open_feature_extractor(spec)


def test_files_of_inception_weights_are_looked_for_first(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        open_feature_extractor(f"inception:{tmp_path}/no.pth")
    assert set(feature_extractors.names()) >= {"inception", "model"}


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """Random weights of the Inception network: the published ones are not ours to ship."""
    sys.modules.setdefault("triton", None)  # As the extractor does.
    torch = pytest.importorskip("torch")
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = inception.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with mock.patch("torch.load"), mock.patch.object(network, "load_state_dict"):
        state = network("random", ["2048"], feature_extractor_weights_path="").state_dict()
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.mark.slow
def test_torch_fidelity_measures_the_same_on_images(inception_weights):
    torch, fidelity = pytest.importorskip("torch"), pytest.importorskip("torch_fidelity")
    generated, real = images(12, 16), images(10, 16, seed=1) // 2

    class Images(torch.utils.data.Dataset):
        def __init__(self, values):
            self.values = torch.from_numpy(values.transpose(0, 3, 1, 2).copy())

        def __len__(self):
            return len(self.values)

        def __getitem__(self, index):
            return self.values[index]

    expected = fidelity.calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_weights),
        batch_size=12,
        cuda=False,
        cache=False,
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=100,
        kid_subset_size=5,
        rng_seed=7,
        verbose=False,
    )
    with pytest.warns(InputWarning, match="are not FID and KID"):
        extractor = open_feature_extractor(f"inception:{inception_weights}")
    sets = [extract_all(extractor, [each[:8], each[8:]]) for each in (generated, real)]
    assert sets[0].shape == (12, 2048)
    distances = SetDistances.of(*sets, seed=7)
    assert kernel_distance(*sets, seed=7)[0] == distances.kernel_distance
    for name, value in (
        ("frechet_inception_distance", distances.frechet_distance),
        ("kernel_inception_distance_mean", distances.kernel_distance),
        ("kernel_inception_distance_std", distances.kernel_distance_std),
        ("precision", distances.precision),
        ("recall", distances.recall),
    ):
        assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    assert not extractor.is_published


@pytest.mark.slow
def test_files_without_inception_weights_are_refused(inception_weights, tmp_path):
    torch = pytest.importorskip("torch")
    files = {"text": b"weights", "empty": b"", "cut": inception_weights.read_bytes()[:10_000]}
    for name, content in files.items():
        (tmp_path / f"{name}.pth").write_bytes(content)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(SetDistances(1, 2, 3, 4, 5), tmp_path / "code.pth")
    for name in (*files, "other", "list", "code"):
        with pytest.raises(InputError, match=rf"{name}\.pth must be a file of Inception weights"):
            open_feature_extractor(f"inception:{tmp_path / name}.pth")

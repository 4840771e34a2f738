import pytest

from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError, paper
from igpt_keras.network.presets import BATCH_SIZES, DEFAULT_PRESET, PRESETS

PAPER = list(paper.PRESETS)


@pytest.mark.parametrize(
    ("name", "image_size", "count"),
    [
        ("image_gpt_small", 32, 76_571_648),
        ("image_gpt_medium", 32, 455_157_760),
        ("image_gpt_large", 32, 1_362_250_752),
        ("image_gpt_xlarge", 32, 6_801_438_720),
        ("image_gpt_xlarge", 64, 6_810_875_904),
    ],
)
def test_presets_have_the_published_parameter_counts(name, image_size, count):
    assert ImageGPTConfig.preset(name, image_size=image_size).parameter_count() == count


def test_presets_have_the_published_input_resolutions():
    sizes = {
        name: ImageGPTConfig.preset(name).image_size
        for name in ("image_gpt_small", "image_gpt_xlarge")
    }
    assert sizes == {"image_gpt_small": 32, "image_gpt_xlarge": 64}


@pytest.mark.parametrize("objective", ["ar", "bert"])
@pytest.mark.parametrize("use_bias", [False, True])
def test_parameter_count_is_that_of_the_built_model(objective, use_bias):
    config = ImageGPTConfig(4, 8, 16, 3, 2, use_bias=use_bias)
    model = ImageGPT(config, objective)
    assert model.count_params() == config.parameter_count(objective)
    joint = ImageGPTClassifier(config, 5, objective)
    assert joint.count_params() == config.parameter_count(objective, num_classes=5)
    discriminative = ImageGPTClassifier(config, 5, objective, generative_weight=0)
    expected = config.parameter_count(objective, num_classes=5, token_head=False)
    assert discriminative.count_params() == expected


def test_igpt_s_built_has_its_parameter_count():
    config = ImageGPTConfig.preset("image_gpt_small")
    assert ImageGPT(config).count_params() == 76_571_648


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 10, "num_heads": 4}, "hidden_dim=10 and num_heads=4"),
        ({"num_layers": 0}, "num_layers must be a positive integer, got 0"),
        ({"vocabulary_size": 8.0}, "vocabulary_size must be a positive integer, got 8.0"),
        ({"image_size": True}, "image_size must be a positive integer, got True"),
        ({"use_bias": 1}, "use_bias must be True or False, got 1"),
    ],
)
def test_unusable_sizes_are_named(config, changes, message):
    with pytest.raises(InputError, match=message):
        ImageGPTConfig(**{**config.to_dict(), **changes})


def test_unknown_preset_is_named():
    with pytest.raises(InputError, match="one of image_gpt_nano, .*_xlarge, got 'igpt-xxl'"):
        ImageGPTConfig.preset("igpt-xxl")


def test_small_presets_have_the_heads_of_the_small_model():
    sizes = [ImageGPTConfig.preset(name) for name in PRESETS]
    assert [config.head_dim for config in sizes[:2]] == [
        ImageGPTConfig.preset(PAPER[0]).head_dim
    ] * 2
    counts = [config.parameter_count() for config in sizes]
    assert counts == sorted(counts) and counts[1] < 5_000_000
    assert set(BATCH_SIZES) == set(PRESETS) and DEFAULT_PRESET in PRESETS
    assert ImageGPTConfig.preset("image_gpt_nano", num_layers=2).num_layers == 2

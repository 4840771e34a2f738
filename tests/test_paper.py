import pytest

from igpt_keras import paper


@pytest.mark.parametrize(("preset", "objective", "image_size"), paper.LEARNING_RATES)
def test_every_published_model_gets_its_own_rate(preset, objective, image_size):
    width = paper.PRESETS[preset]["hidden_dim"]
    rate = paper.LEARNING_RATES[preset, objective, image_size]
    assert paper.learning_rate(width, image_size, objective) == rate


def test_other_sizes_get_the_rate_of_the_nearest():
    assert paper.learning_rate(16, 8, "ar") == 0.003
    assert paper.learning_rate(16, 8, "bert") == 0.01
    assert paper.learning_rate(1600, 64, "ar") == 0.01
    assert paper.learning_rate(1600, 32, "ar") == 0.001
    assert paper.learning_rate(8000, 32, "ar") == 0.0003

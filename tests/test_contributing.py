"""The recipes of CONTRIBUTING.md work as they stand."""

import pathlib
import re
import subprocess
import sys

CONTRIBUTING = pathlib.Path(__file__).parent.parent / "CONTRIBUTING.md"
USE = """
import igpt_keras
from igpt_keras.evaluation.feature_extractors import open_feature_extractor
from igpt_keras.tokenizers import tokenizers

images = igpt_keras.data.read_images(igpt_keras.open_data("stripes:4").train, 4).images
assert sorted({tuple(image[:, 0, 0] > 0) for image in images}) == [
    (False,) * 4, (True, False, True, False)
]
tokenizer = tokenizers.get("mean_gray")(4)
assert (tokenizer.tokenize(images)[:, 0] == np.rint(images.mean(axis=(1, 2, 3)))).all()
assert (tokenizer.detokenize(np.array([[7]])) == 7).all()
filtered = np.asarray(MinP(0.4).filter_logits(ops.log([[0.1, 0.3, 0.6]])))
assert np.isinf(filtered).tolist() == [[True, False, False]]
assert METHODS.get("centroids") is Centroids
extractor = open_feature_extractor("mean_color")
assert (extractor.extract(images) == images.mean(axis=(1, 2))).all()
config = igpt_keras.ImageGPTConfig(4, 8, 16, 2, 2, attention="window")
model = igpt_keras.ImageGPT(config)
states = [
    np.asarray(model.backbone.blocks[0](np.eye(16, dtype=np.float32)[None] * scale))[0]
    for scale in (np.ones((1, 16, 1)), np.where(np.arange(16) == 2, 2, 1)[:, None])
]
changed = np.abs(states[0] - states[1]).max(axis=-1) > 1e-6
assert np.flatnonzero(changed).max() < 2 + 4, changed
print("used")
"""


def test_the_recipes_can_be_pasted():
    text = CONTRIBUTING.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 6
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, USE])], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "used\n"

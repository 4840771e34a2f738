"""What `test_jax.py` computes on two backends: completions and scores of the same models."""

import pathlib

import numpy as np

import igpt_keras
from igpt_keras import samplers
from igpt_keras.sampling.drafts import NeighborDraft

GUIDED = {"labels": [2, 0, 1], "guidance_scale": 2.0}
# Some pixels in the middle of what is sampled are known too.
MASK = np.random.default_rng(5).random((3, 4, 4)) < 0.4
# A model, and arguments of `generate`.
COMPLETIONS = {
    "rows": ("dense", {"keep_rows": 2, "num_completions": 3}),
    "nothing": ("dense", {"keep_rows": 0, "seed": [2**62, 1, 0]}),
    "everything": ("dense", {"keep_rows": 4}),
    "mask": ("dense", {"known_mask": MASK, "num_completions": 2}),
    "categorical": (
        "dense",
        {"keep_rows": 1, "num_completions": 3, "sampler": samplers.Categorical(0.8, 5, 0.9)},
    ),
    "greedy": ("dense", {"keep_rows": 1, "sampler": samplers.Greedy()}),
    "strided": ("strided", {"known_mask": MASK, "sampler": samplers.TopP(0.8)}),
    "fixed": ("fixed", {"keep_rows": 1, "sampler": samplers.TopK(3)}),
    "class": ("classes", {"keep_rows": 1, "labels": 1, "num_completions": 2}),
    "guidance": ("classes", {"known_mask": MASK, "num_completions": 2, **GUIDED}),
    "neighbors": ("dense", {"keep_rows": 1, "draft": "neighbors", "num_completions": 2}),
    "draft": ("classes", {"keep_rows": 1, "draft": "dense", **GUIDED}),
    "bert": ("bert", {"keep_rows": 1, "num_steps": 5, "num_completions": 2}),
    "bert mask": ("bert", {"known_mask": MASK, "sampler": samplers.TopP(0.8), "num_steps": 3}),
}


def compute(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all results with the models and images of a folder."""
    images = np.load(folder / "images.npy")
    models = {path.name: igpt_keras.load(path) for path in folder.iterdir() if path.is_dir()}
    drafts = {**models, "neighbors": NeighborDraft.load(folder / "neighbors.npz")}
    results = {}
    for name, (model, settings) in COMPLETIONS.items():
        if "draft" in settings:
            settings = {**settings, "draft": drafts[settings["draft"]]}
        completed = models[model].generate(images, **settings)
        for field in ("images", "tokens", "log_likelihood", "entropy", "num_forward_passes"):
            results[f"{name}.{field}"] = getattr(completed, field)
    for name in ("dense", "strided", "fixed", "classes"):
        # The last batch is smaller.
        results[f"{name}.score"] = models[name].score(images, batch_size=2)
    results["dense.per_pixel"] = models["dense"].score(images, per_pixel=True)
    results["classes.score_of_label"] = models["classes"].score(images, [2, 0, 1])
    results["classes.by_class"] = models["classes"].class_log_likelihood(images)
    return results

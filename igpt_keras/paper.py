"""Every number that this package takes from the paper, once, with the section it stands in.

Mark Chen, Alec Radford, Rewon Child, Jeffrey Wu, Heewoo Jun, David Luan, Ilya Sutskever:
"Generative Pretraining from Pixels", ICML 2020.
https://cdn.openai.com/papers/Generative_Pretraining_from_Pixels_V2.pdf

Numbers that the paper leaves open come from the published code,
https://github.com/openai/image-gpt, and are marked as such.

```bibtex
@inproceedings{chen2020generative,
  title     = {Generative Pretraining from Pixels},
  author    = {Chen, Mark and Radford, Alec and Child, Rewon and Wu, Jeffrey and Jun, Heewoo
               and Luan, David and Sutskever, Ilya},
  booktitle = {Proceedings of the 37th International Conference on Machine Learning},
  series    = {Proceedings of Machine Learning Research},
  volume    = {119},
  pages     = {1691--1703},
  year      = {2020},
  url       = {https://cdn.openai.com/papers/Generative_Pretraining_from_Pixels_V2.pdf}
}
```
"""

import math

# ---- Tokens (section 3.2) -------------------------------------------------------------------

PALETTE_SIZE = 512
"""Colors of the 9-bit palette, k of k-means."""

IMAGE_SIZES = (32, 48, 64)
"""Sides of the square input images in pixels (IR)."""

# ---- Network (sections 2.2 and 3.3) ---------------------------------------------------------

PRESETS = {
    "image_gpt_small": {"num_layers": 24, "hidden_dim": 512, "num_heads": 8, "image_size": 32},
    "image_gpt_medium": {"num_layers": 36, "hidden_dim": 1024, "num_heads": 8, "image_size": 32},
    "image_gpt_large": {"num_layers": 48, "hidden_dim": 1536, "num_heads": 16, "image_size": 32},
    # The number of heads of XL is not published; 24 makes them 128 wide, as in M.
    "image_gpt_xlarge": {"num_layers": 60, "hidden_dim": 3072, "num_heads": 24, "image_size": 64},
}
"""Sizes of iGPT-S, M, L and XL. The number of heads is that of the published code."""

MLP_RATIO = 4
"""Width of an MLP's hidden layer over `hidden_dim` (GPT-2)."""

NORM_EPSILON = 1e-5
"""Added to the mean square in the norms (published code)."""

GELU_FACTOR = 1.702
"""The activation is x · sigmoid(1.702 x) (published code)."""

EMBEDDING_STDDEV = 0.02
"""Initial token embeddings and start vector (published code)."""

POSITION_STDDEV = 0.01
"""Initial position embeddings (published code)."""

MLP_STDDEV = 0.02
"""Initial MLP matrices (published code)."""


def qkv_stddev(hidden_dim: int) -> float:
    """Standard deviation of the initial query, key and value matrices (published code)."""
    return 1 / math.sqrt(hidden_dim)


def attention_output_stddev(hidden_dim: int, num_layers: int) -> float:
    """Standard deviation of the initial output projections of attention (published code).

    Section 3.3: layer-dependent, as in Sparse Transformer. Heads start at zero.
    """
    return 1 / math.sqrt(hidden_dim * num_layers)


# ---- BERT (sections 2.1 and 4.6, appendix A.1) ----------------------------------------------

MASK_PROBABILITY = 0.15
"""Probability of each position to be in the mask M (section 2.1)."""

NUM_VOTES = 5
"""Independent masks of an image whose predictions vote at evaluation (section 4.6)."""

# ---- Pre-training (section 3.4 and appendix A.1) --------------------------------------------

ADAM_BETA_1 = 0.9
"""Decay of Adam's first moment (section 3.4)."""

ADAM_BETA_2 = 0.95
"""Decay of Adam's second moment; the usual 0.999 gives loss spikes (appendix A.1)."""

BATCH_SIZE = 128
"""Images in a batch of S, M and L, when pre-training and fine-tuning (section 3.4)."""

TRAINING_STEPS = 1_000_000
"""Steps of pre-training of S, M and L (section 3.4)."""

XLARGE_BATCH_SIZE = 64
"""Images in a batch of XL (section 3.4)."""

XLARGE_TRAINING_STEPS = 2_000_000
"""Steps of pre-training of XL (section 3.4)."""

WARMUP_EPOCHS = 1
"""Epochs of linear warm-up, before a cosine to 0 (section 3.4)."""

SNAPSHOT_FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Parts of the training after which models are compared: 65K … 1000K of 1M steps (figure 3)."""

SEARCH_LEARNING_RATES = (0.01, 0.003, 0.001, 0.0003)
"""Rates to try, from large to small, until the final validation loss increases (section 3.4)."""

LEARNING_RATE = 0.003
"""The rate found for S and M at 32² (appendix A.1, table 5)."""

LEARNING_RATES = {
    ("image_gpt_small", "ar", 32): 0.003,
    ("image_gpt_medium", "ar", 32): 0.003,
    ("image_gpt_large", "ar", 32): 0.001,
    ("image_gpt_large", "ar", 48): 0.01,
    ("image_gpt_xlarge", "ar", 64): 0.0003,
    ("image_gpt_small", "bert", 32): 0.01,
    ("image_gpt_medium", "bert", 32): 0.003,
    ("image_gpt_large", "bert", 32): 0.001,
}
"""Rates found, by preset, objective and image size (appendix A.1, table 5)."""


def learning_rate(hidden_dim: int, image_size: int, objective: str) -> float:
    """The rate found for the published model nearest in width, then in image size.

    >>> learning_rate(hidden_dim=1536, image_size=48, objective="ar")
    0.01
    """

    def distance(key):
        preset, _, size = key
        width = PRESETS[preset]["hidden_dim"]
        return abs(math.log(hidden_dim / width)), abs(math.log(image_size / size))

    return LEARNING_RATES[min((key for key in LEARNING_RATES if key[1] == objective), key=distance)]


# ---- Fine-tuning (sections 2.3, 3.4 and 4.5) ------------------------------------------------

GENERATIVE_WEIGHT = 1.0
"""Factor of L_GEN in the joint objective L_GEN + L_CLF (section 2.3)."""

FINETUNING_RATE_DIVISOR = 10
"""The best rate is "often an order of magnitude smaller" than in pre-training (section 4.5)."""

FINETUNING_LEARNING_RATE = 0.0003
"""A tenth of that of S and M, constant (section 3.4)."""

# ---- Data (section 3.1) ---------------------------------------------------------------------

VALIDATION_FRACTION = 0.10
"""Part of the training images of CIFAR-10, CIFAR-100 and STL-10 that is held out."""

IMAGENET_VALIDATION_FRACTION = 0.04
"""Part of ImageNet's training images that is held out."""

IMAGENET_SHORTER_SIDE = (256, 384)
"""Range of the shorter side in pixels that training images of ImageNet are resized to."""

IMAGENET_CROP = 224
"""Side in pixels of the crop from these; at evaluation also the shorter side."""

CIFAR_SIZE = 32
"""Side in pixels of the crop from a padded image of CIFAR."""

CIFAR_PADDING = 4
"""Pixels that CIFAR's images are reflection-padded with on each side."""

# ---- Linear probes (sections 3.4, 4.4 and 4.7) ----------------------------------------------

PROBE_LEARNING_RATES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
"""Rates of SGD on ImageNet, "30, 10, 3, …", from large to small (section 3.4)."""

PROBE_MOMENTUM = 0.9
"""Momentum of SGD on ImageNet (section 3.4)."""

PROBE_STEPS = 1_000_000
"""Steps of SGD on ImageNet, with a cosine to 0 (section 3.4). CIFAR and STL-10 use L-BFGS."""

PROBE_CONCATENATED_LAYERS = 5
"""Layers centered at the best one whose features are concatenated (section 4.4)."""

LOW_DATA_LABELS_PER_CLASS = (4, 25, 400)
"""Labels of each of CIFAR-10's classes (section 4.7)."""

LOW_DATA_SUBSETS = 5
"""Random subsets of the labels, for a mean and a standard deviation (section 4.7)."""

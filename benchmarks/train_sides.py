"""The sides of `train_step.py`: functions that build a model and return its training step.

All begin with the same weights and train on the same tokens, so their first losses are equal.
A step returns its loss, the mean over all tokens in nats.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

HIDDEN_DIM = 512
HEADS = 8
COLORS = 512
LEARNING_RATE = 1e-3
BETAS = (0.9, 0.95)

Step = Callable[[], float]
Weights = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is trained on: float32, a causal model, all of the batch at once."""

    layers: int
    image_size: int
    batch: int

    @property
    def length(self) -> int:
        return self.image_size**2


def initial_weights(sizes: Sizes) -> Weights:
    """Kernels as [inputs, outputs], queries, keys and values side by side."""
    generator = np.random.default_rng(0)

    def draw(*shape):
        return 0.02 * generator.standard_normal(shape, np.float32)

    d = HIDDEN_DIM
    weights = {"tokens": draw(COLORS, d), "start": draw(d), "positions": draw(sizes.length, d)}
    for i in range(sizes.layers):
        weights |= {
            f"{i}.attention_norm": np.ones(d, np.float32),
            f"{i}.qkv": draw(d, 3 * d),
            f"{i}.output_proj": draw(d, d),
            f"{i}.mlp_norm": np.ones(d, np.float32),
            f"{i}.up_proj": draw(d, 4 * d),
            f"{i}.down_proj": draw(4 * d, d),
        }
    return weights | {"final_norm": np.ones(d, np.float32), "token_head": draw(d, COLORS)}


def images(sizes: Sizes) -> np.ndarray:
    """Tokens, int32 [B, n]."""
    shape = (sizes.batch, sizes.length)
    return np.random.default_rng(1).integers(0, COLORS, shape).astype(np.int32)


def our_model(sizes: Sizes, remat: bool = False, jit_compile: bool = False):
    import igpt_keras
    from igpt_keras.training.recipes import adam

    config = igpt_keras.ImageGPTConfig(
        sizes.image_size, COLORS, HIDDEN_DIM, sizes.layers, HEADS, use_bias=False
    )
    model = igpt_keras.ImageGPT(config)
    weights = initial_weights(sizes)
    backbone = model.backbone
    backbone.embedding.token_embedding.assign(weights["tokens"])
    backbone.embedding.start_vector.assign(weights["start"])
    backbone.embedding.position_embedding.assign(weights["positions"])
    for i, block in enumerate(backbone.blocks):
        block.attention_norm.scale.assign(weights[f"{i}.attention_norm"])
        block.attention.qkv.kernel.assign(weights[f"{i}.qkv"])
        block.attention.output_proj.kernel.assign(weights[f"{i}.output_proj"])
        block.mlp_norm.scale.assign(weights[f"{i}.mlp_norm"])
        block.mlp.up_proj.kernel.assign(weights[f"{i}.up_proj"])
        block.mlp.down_proj.kernel.assign(weights[f"{i}.down_proj"])
    backbone.final_norm.scale.assign(weights["final_norm"])
    model.token_head.kernel.assign(weights["token_head"])
    model.compile(adam(LEARNING_RATE), jit_compile=jit_compile, remat=remat)
    return model


def our_step(sizes: Sizes, remat: bool = False, jit_compile: bool = False) -> Step:
    """On TensorFlow."""
    import tensorflow as tf

    model = our_model(sizes, remat, jit_compile)
    batches = iter(tf.data.Dataset.from_tensors(images(sizes)).repeat())
    model.make_train_function()
    return lambda: float(model.train_function(batches)["loss"])


def our_jax_step(sizes: Sizes) -> Step:
    """On JAX, compiled as always there. Keras must not have been imported yet."""
    os.environ["KERAS_BACKEND"] = "jax"
    model, tokens = our_model(sizes, jit_compile=True), images(sizes)

    def step():
        # It returns means over all steps since the last reset.
        model.reset_metrics()
        return float(model.train_on_batch(tokens, return_dict=True)["loss"])

    return step


def hugging_face_step(sizes: Sizes, sdpa: bool) -> Step:
    import torch
    from peers import mend_torchvision

    mend_torchvision()
    from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling
    from transformers.models.imagegpt.modeling_imagegpt import ImageGPTAttention

    if sdpa:
        # transformers has none for this model.
        def attention(self, query, key, value, attention_mask=None):
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(query, key, value, is_causal=True), None

        ImageGPTAttention._attn = attention
    config = ImageGPTConfig(
        vocab_size=COLORS + 1,
        n_positions=sizes.length,
        n_embd=HIDDEN_DIM,
        n_layer=sizes.layers,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    model = ImageGPTForCausalImageModeling(config).train()
    given = {name: torch.from_numpy(value) for name, value in initial_weights(sizes).items()}
    state = model.state_dict()
    state |= {
        "transformer.wte.weight": torch.cat([given["tokens"], given["start"][None]]),
        "transformer.wpe.weight": given["positions"],
        "transformer.ln_f.weight": given["final_norm"],
        "lm_head.weight": given["token_head"].T,
    }
    names = {
        "ln_1": "attention_norm",
        "attn.c_attn": "qkv",
        "attn.c_proj": "output_proj",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "up_proj",
        "mlp.c_proj": "down_proj",
    }
    for i in range(sizes.layers):
        for theirs, ours in names.items():
            state[f"transformer.h.{i}.{theirs}.weight"] = given[f"{i}.{ours}"]
    model.load_state_dict(state)
    tokens = torch.from_numpy(images(sizes)).long()
    inputs = torch.cat([torch.full_like(tokens[:, :1], COLORS), tokens[:, :-1]], dim=1)

    def loss():
        # Its own loss leaves out the first token.
        logits = model(input_ids=inputs).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    return torch_step(model, loss)


def torch_compiled_step(sizes: Sizes) -> Step:
    """The network in plain PyTorch with sdpa, its loss included in what is compiled."""
    import torch
    from torch.nn import functional

    given = {name: torch.from_numpy(value) for name, value in initial_weights(sizes).items()}

    class ImageGPT(torch.nn.Module):
        def __init__(self):
            super().__init__()
            # Names of parameters have no dots.
            for name, value in given.items():
                self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(value))

        def weight(self, layer, name):
            return getattr(self, f"{layer}_{name}")

        def block(self, i, h):
            batch, length, d = h.shape
            x = normalized(h, self.weight(i, "attention_norm"))
            qkv = (x @ self.weight(i, "qkv")).view(batch, length, 3, HEADS, d // HEADS)
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            x = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x.transpose(1, 2).reshape(batch, length, d)
            h = h + x @ self.weight(i, "output_proj")
            x = normalized(h, self.weight(i, "mlp_norm")) @ self.weight(i, "up_proj")
            return h + (x * torch.sigmoid(1.702 * x)) @ self.weight(i, "down_proj")

        def forward(self, tokens):
            start = self.start.expand(len(tokens), 1, -1)
            h = torch.cat([start, self.tokens[tokens[:, :-1]]], dim=1) + self.positions
            for i in range(sizes.layers):
                h = self.block(i, h)
            logits = normalized(h, self.final_norm) @ self.token_head
            return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    def normalized(x, gain):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * gain

    model = ImageGPT()
    compiled = torch.compile(model)
    tokens = torch.from_numpy(images(sizes)).long()
    return torch_step(model, lambda: compiled(tokens))


def torch_step(model, loss) -> Step:
    """With fused Adam."""
    import torch

    torch.set_num_threads(os.cpu_count())
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, BETAS, fused=True)

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


SIDES: dict[str, Callable[[Sizes], Step]] = {
    "igpt_keras": our_step,
    "PyTorch, compiled": torch_compiled_step,
    "Hugging Face": lambda sizes: hugging_face_step(sizes, sdpa=False),
    "Hugging Face with sdpa": lambda sizes: hugging_face_step(sizes, sdpa=True),
    "igpt_keras, remat": lambda sizes: our_step(sizes, remat=True),
    "igpt_keras, XLA": lambda sizes: our_step(sizes, jit_compile=True),
    "igpt_keras, JAX": our_jax_step,
}
OURS = next(iter(SIDES))

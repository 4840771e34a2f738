"""The paper's optimizer and schedule (appendix, "Experimental details")."""

import keras

from igpt_keras import paper


def adam(learning_rate, clip_norm: float | None = None) -> keras.optimizers.Adam:
    """Adam with β1 = 0.9, β2 = 0.95, no weight decay.

    Args:
        learning_rate: a number or a Keras schedule.
        clip_norm: the largest global norm of a gradient; None, as in the paper, for any.
    """
    return keras.optimizers.Adam(
        learning_rate,
        beta_1=paper.ADAM_BETA_1,
        beta_2=paper.ADAM_BETA_2,
        global_clipnorm=clip_norm,
    )


def warmup_cosine(learning_rate: float, warmup_steps: int, total_steps: int):
    """Linear warm-up from 0 to `learning_rate`, then a cosine to 0 at `total_steps`.

    The paper warms up over one epoch. Returns a Keras schedule.
    """
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(total_steps - warmup_steps, 1),
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )

"""Generative adversarial networks of 2014, compared with Image GPT.

    python examples/baselines/gan.py --data digits --output gan
    python examples/baselines/gan.py --data digits --output gan --model runs/digits
    python examples/baselines/gan.py --data tfds:mnist --image-size 28 --width 1200 --steps 125000

This trains a GAN (Goodfellow et al., 2014) and a conditional one (Mirza and Osindero, 2014) with
the losses, layers, dropout and optimizer of the papers. It prints the table of `parzen.py` with
their samples and writes pictures of them. docs/baselines.md says what the numbers mean.
"""

import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from gan_networks import LATENT_DIM, build_discriminator, build_generator
from gray_images import GrayImages, read_gray_images, to_pictures
from parzen import MAX_SAMPLES, estimate, image_gpt_rows, parser_of, sanity_rows, table

import igpt_keras
from igpt_keras.pictures import contact_sheet, save_png

BATCH_SIZE = 100
LEARNING_RATE, DECAY = 0.1, 1.000004
FIRST_MOMENTUM, LAST_MOMENTUM = 0.5, 0.7
EPOCHS = 10
SHOWN = 10


def value(real_logits, fake_logits):
    """Returns V(D, G) = E log D(x) + E log(1 - D(G(z))), given the logits of D."""
    real, fake = tf.math.log_sigmoid(real_logits), tf.math.log_sigmoid(-fake_logits)
    return tf.reduce_mean(real) + tf.reduce_mean(fake)


def non_saturating_loss(fake_logits):
    """Returns -E log D(G(z)), which has a gradient where D is sure, as log(1 - D) has not."""
    return -tf.reduce_mean(tf.math.log_sigmoid(fake_logits))


class MomentumSGD:
    """Descends along gradients with a momentum that grows linearly until a step, and then stays.

    Keras' `SGD` takes a constant momentum only.

    Args:
        weights: The variables to train.
        steps: Number of steps until `LAST_MOMENTUM`.
    """

    def __init__(self, weights: list[keras.Variable], steps: int):
        self.weights, self.steps = weights, steps
        self.velocities = [
            keras.Variable(np.zeros(w.shape, np.float32), trainable=False) for w in weights
        ]
        self.step = keras.Variable(0.0, trainable=False)

    def descend(self, tape: tf.GradientTape, loss) -> None:
        """Takes a step along the gradient of a loss that the tape has seen."""
        gradients: Any = tape.gradient(loss, self.weights)
        done = tf.minimum(self.step / self.steps, 1.0)
        momentum = FIRST_MOMENTUM + (LAST_MOMENTUM - FIRST_MOMENTUM) * done
        rate = LEARNING_RATE / DECAY**self.step
        for weight, velocity, gradient in zip(
            self.weights, self.velocities, gradients, strict=True
        ):
            velocity.assign(momentum * velocity - rate * gradient)
            weight.assign_add(velocity)
        self.step.assign_add(1.0)


class GAN(keras.Model):
    """A generator and a discriminator that train against each other.

    A batch holds `k` times the images of a step of D (algorithm 1 of the paper): D takes k
    steps, each on images and noise of its own, and then G takes one.

    Args:
        generator: From noise, and classes, to pixels.
        discriminator: From pixels, and classes, to a logit.
        steps: Number of steps of G over which momentum grows.
        k: Steps of D for each step of G.
        seed: Seed of the noise in training.
    """

    def __init__(self, generator, discriminator, steps: int, k: int = 1, seed: int = 0):
        super().__init__()
        self.generator, self.discriminator, self.k = generator, discriminator, k
        self.noise = keras.random.SeedGenerator(seed)
        self.generator_sgd = MomentumSGD(generator.trainable_variables, steps)
        self.discriminator_sgd = MomentumSGD(discriminator.trainable_variables, steps * k)
        self.compile()

    def draw(self, count: int, classes):
        """Generates pixels from new noise; `classes` is empty or holds one-hot [count, C]."""
        noise = keras.random.normal((count, LATENT_DIM), seed=self.noise)
        return self.generator([noise, *classes])

    def judge(self, pixels, classes):
        return self.discriminator([pixels, *classes], training=True)

    def train_step(self, data):
        parts = zip(*(tf.split(each, self.k) for each in data), strict=True)
        for pixels, *classes in parts:
            fake = self.draw(pixels.shape[0], classes)
            with tf.GradientTape() as tape:
                found = value(self.judge(pixels, classes), self.judge(fake, classes))
                loss = -found / 2
            self.discriminator_sgd.descend(tape, loss)
        with tf.GradientTape() as tape:
            loss = non_saturating_loss(self.judge(self.draw(pixels.shape[0], classes), classes))
        self.generator_sgd.descend(tape, loss)
        return {"value": found, "generator_loss": loss}

    def sample(self, count: int, labels: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
        """Returns generated pixels, float32 [count, d]; `labels` int [count] if conditional."""
        noise = keras.random.normal((count, LATENT_DIM), seed=seed)
        classes = (
            [tf.one_hot(labels, self.generator.inputs[1].shape[1])] if labels is not None else []
        )
        return np.asarray(self.generator([noise, *classes]))


def train(
    images: GrayImages, steps: int, width: int, conditional: bool = False, k: int = 1, seed: int = 0
) -> GAN:
    """Trains a GAN on the training images for a number of steps of G.

    `width` is that of the generator's layers. The discriminator has a fifth of it in maxout
    units of several pieces, as in the papers.

    Raises:
        InputError: There are too few steps.
    """
    if steps < EPOCHS:
        raise igpt_keras.InputError(f"steps must be at least {EPOCHS}, got {steps}")
    keras.utils.set_random_seed(seed)
    num_classes = int(images.labels.max()) + 1 if conditional else 0
    arrays = (images.train, *([tf.one_hot(images.labels, num_classes)] if conditional else []))
    data = tf.data.Dataset.from_tensor_slices(arrays).shuffle(len(images.train), seed)
    data = data.repeat().batch(BATCH_SIZE * k, drop_remainder=True)
    generator = build_generator(images.train.mean(axis=0), width, num_classes)
    discriminator = build_discriminator(images.train.shape[1], width // 5, num_classes)
    gan = GAN(generator, discriminator, steps, k, seed)
    gan.fit(data, steps_per_epoch=steps // EPOCHS, epochs=EPOCHS, shuffle=False, verbose=2)  # pyright: ignore[reportArgumentType]
    return gan


def nearest(samples: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns the image that is nearest to each sample."""
    return images[[((images - sample) ** 2).sum(axis=1).argmin() for sample in samples]]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("gan"))
    parser.add_argument("--steps", type=int, default=15_000, help="steps of each generator")
    parser.add_argument("--width", type=int, default=200, help="units of G's layers")
    parser.add_argument("--k", type=int, default=1, help="steps of D for each of G")
    options = parser.parse_args()
    images = read_gray_images(options.data, options.image_size)
    count, seed = options.num_samples or min(MAX_SAMPLES, len(images.train)), options.seed
    num_classes = images.labels.max() + 1  # 0 without labels
    kinds: dict[str, np.ndarray | None] = {"GAN": None}
    if num_classes:
        kinds["conditional GAN"] = np.arange(count) % num_classes
    drawn = {}
    for name, labels in kinds.items():
        gan = train(images, options.steps, options.width, labels is not None, options.k, seed)
        drawn[name] = gan.sample(count, labels, seed)
    rows = sanity_rows(images, count, seed)
    rows += [estimate(name, samples, images) for name, samples in drawn.items()]
    shown = {
        "training images": images.train,
        "GAN": drawn["GAN"],
        "nearest training images": nearest(drawn["GAN"][:SHOWN], images.train),
        **drawn,
    }
    pictures = {name: to_pictures(pixels[:SHOWN]) for name, pixels in shown.items()}
    if options.model:
        model = igpt_keras.load(options.model)
        samples = model.sample(count, seed=seed).images[:, 0]
        rows += image_gpt_rows(model, samples, images)
        pictures["Image GPT"] = samples[:SHOWN]
    options.output.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(list(pictures.values()), labels=list(pictures), cell_size=64)
    save_png(sheet, options.output / "samples.png")
    print(table(rows))


if __name__ == "__main__":
    main()

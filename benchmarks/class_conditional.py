"""How well a class-conditional model classifies, next to a probe and fine-tuning of its size.

    python benchmarks/class_conditional.py --output conditional.png

Trains a class-conditional model and one without classes with the same sizes, images, steps and
seed, and prints a Markdown table of test accuracies: the class of the largest log p(x | class), a
logistic regression on the features of the layer that is best on validation, and a classifier that
is fine-tuned from the model without classes. The picture has samples of every class, without
guidance and with it. On scikit-learn's digits this takes about three minutes of CPU.
"""

import argparse
from typing import NamedTuple

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import igpt_keras
from igpt_keras.data import open_data, read_images
from igpt_keras.pictures.contact_sheets import contact_sheet, save_png
from igpt_keras.training.recipes import adam, warmup_cosine

COLUMNS, GUIDANCE_SCALE = 6, 2.0


class Splits(NamedTuple):
    """Images with their labels."""

    train: igpt_keras.data.LabeledImages
    validation: igpt_keras.data.LabeledImages
    test: igpt_keras.data.LabeledImages


def pretrained(splits, palette, arguments, num_classes) -> igpt_keras.ImageGPT:
    """Returns a trained model, class-conditional if there is a number of classes."""
    keras.utils.set_random_seed(arguments.seed)
    config = igpt_keras.ImageGPTConfig(
        image_size=arguments.image_size,
        vocabulary_size=arguments.num_colors,
        hidden_dim=arguments.hidden_dim,
        num_layers=arguments.num_layers,
        num_heads=arguments.num_heads,
        num_classes=num_classes,
    )
    model = igpt_keras.ImageGPT(config, tokenizer=palette)
    steps = arguments.epochs * -(-len(splits.train) // arguments.batch_size)
    model.compile(adam(warmup_cosine(arguments.learning_rate, steps // 10, steps)))
    model.fit(
        splits.train.images,
        splits.train.labels,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        verbose=2,
    )
    return model


def probed(model, splits) -> float:
    """Returns the test accuracy of a logistic regression on the best layer's features."""
    found = []
    for layer in range(model.config.num_layers + 1):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(model.features(splits.train.images, layer), splits.train.labels)
        validation, test = (
            probe.score(model.features(split.images, layer), split.labels)
            for split in (splits.validation, splits.test)
        )
        found.append((validation, test))
    return max(found)[1]


def finetuned(model, splits, arguments, num_classes) -> float:
    """Returns the test accuracy of a classifier that starts from `model`."""
    classifier = igpt_keras.ImageGPTClassifier.from_preset(model, num_classes)
    classifier.compile(adam(arguments.learning_rate / 3))
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=5, restore_best_weights=True
    )
    classifier.fit(
        splits.train.images,
        splits.train.labels,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_data=(splits.validation.images, splits.validation.labels),
        callbacks=[best],
        verbose=2,
    )
    test = splits.test
    return classifier.evaluate(test.images, test.labels, verbose=0, return_dict=True)["accuracy"]


def sheet_of(model, class_names, seed):
    """Returns samples of every class: without guidance on the left, with it on the right."""
    labels = np.arange(len(class_names)).repeat(COLUMNS)
    sides = [
        model.sample(len(labels), labels=labels, guidance_scale=scale, seed=seed).images[:, 0]
        for scale in (1.0, GUIDANCE_SCALE)
    ]
    rows = [
        [*(side[row * COLUMNS : (row + 1) * COLUMNS] for side in sides)]
        for row in range(len(class_names))
    ]
    return contact_sheet(
        [[*left, None, *right] for left, right in rows],
        cell_size=max(32, model.config.image_size),
        title=f"Samples of each class with guidance scales 1 and {GUIDANCE_SCALE:g}",
        labels=class_names,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--limit", type=int, help="training images; all by default")
    parser.add_argument("--num-test", type=int, help="images of the other splits; all by default")
    parser.add_argument("--image-size", type=int, default=8)
    parser.add_argument("--num-colors", type=int, default=16)
    parser.add_argument("--hidden-dim", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--num-heads", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file of the samples")
    arguments = parser.parse_args()

    data = open_data(arguments.data)
    limits = (arguments.limit, arguments.num_test, arguments.num_test)
    splits = Splits(
        *(
            read_images(split, arguments.image_size, limit=limit, seed=0)
            for split, limit in zip((data.train, data.validation, data.test), limits, strict=True)
        )
    )
    palette = igpt_keras.ColorPalette.fit(splits.train.images, num_colors=arguments.num_colors)
    classes, test = len(data.class_names), splits.test
    conditional = pretrained(splits, palette, arguments, classes)
    if arguments.output:
        save_png(sheet_of(conditional, data.class_names, arguments.seed), arguments.output)
    scores = conditional.class_log_likelihood(test.images)
    plain = pretrained(splits, palette, arguments, None)
    length = conditional.config.sequence_length
    print("| test, nats per token | class-conditional | without classes |")
    print("| --- | ---: | ---: |")
    given = -conditional.score(test.images, test.labels).mean() / length
    print(f"| given the class | {given:.4f} | |")
    without = [-model.score(test.images).mean() / length for model in (conditional, plain)]
    print(f"| given no class | {without[0]:.4f} | {without[1]:.4f} |")
    print()
    print("| classifier | test accuracy |")
    print("| --- | ---: |")
    right = (scores.argmax(axis=1) == test.labels).mean()
    print(f"| largest log p(x given the class) | {right:.1%} |")
    print(f"| probe of the class-conditional model | {probed(conditional, splits):.1%} |")
    print(f"| probe of the model without classes | {probed(plain, splits):.1%} |")
    print(f"| fine-tuned | {finetuned(plain, splits, arguments, classes):.1%} |")


if __name__ == "__main__":
    main()

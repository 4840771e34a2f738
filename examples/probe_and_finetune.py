# %% [markdown]
# # Probe and fine-tune
#
# The paper asks what a generative model has learned about images by training linear classifiers
# on the features of each layer, and by fine-tuning the whole network. This example does both on
# scikit-learn's handwritten digits, in about two minutes on two CPU cores.

# %%
import keras
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import igpt_keras

digits = igpt_keras.open_data("digits")
train, validation, test = (
    igpt_keras.data.read_images(split, image_size=8)
    for split in (digits.train, digits.validation, digits.test)
)

# %% [markdown]
# Pre-training uses no labels.

# %%
palette = igpt_keras.ColorPalette.fit(train.images, num_colors=16)
config = igpt_keras.ImageGPTConfig(
    image_size=8, vocabulary_size=16, hidden_dim=64, num_layers=4, num_heads=4
)
model = igpt_keras.ImageGPT(config, tokenizer=palette)
model.compile()
model.fit(train.images, batch_size=32, epochs=8, verbose=0)
print(model.evaluate(validation.images, verbose=0, return_dict=True))

# %% [markdown]
# ## Linear probes
#
# `model.features(images, layer)` is the mean of the normalized states of a layer over the sequence
# (paper, section 2.4). Accuracy rises, peaks before the last layer, and falls.

# %%
for layer in range(config.num_layers + 1):
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(model.features(train.images, layer), train.labels)
    accuracy = probe.score(model.features(validation.images, layer), validation.labels)
    print(f"layer {layer}: {accuracy:.1%}")

# %% [markdown]
# ## Fine-tuning
#
# A class head on the final features, trained together with the network. The loss is
# L_CLF + L_GEN, as in the paper. The default learning rate suits large models; this small one
# learns faster at a higher rate.

# %%
model.save_to_preset("digits-model", overwrite=True)
classifier = igpt_keras.ImageGPTClassifier.from_preset("digits-model", num_classes=10)
classifier.compile(keras.optimizers.Adam(0.001, beta_2=0.95))
classifier.fit(
    train.images,
    train.labels,
    batch_size=32,
    epochs=12,
    validation_data=(validation.images, validation.labels),
    verbose=2,
)

# %%
accuracy = classifier.evaluate(test.images, test.labels, verbose=0, return_dict=True)["accuracy"]
print(f"test accuracy {accuracy:.1%}")

# %% [markdown]
# # Pre-train on your own images and complete them
#
# Point `FOLDER` at a folder of images of any size and format. Without one, this example cuts
# crops from the two photographs that scikit-learn ships, so that it runs anywhere. On two CPU
# cores it takes about two minutes; real photographs need a larger model and more steps.

# %%
import pathlib

import igpt_keras
from igpt_keras.pictures import completion_sheet, known_rows

FOLDER = pathlib.Path("photos")
IMAGE_SIZE = 16

# %%
if not FOLDER.exists():
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    FOLDER.mkdir()
    generator = np.random.default_rng(0)
    for index in range(600):
        photo = load_sample_images().images[index % 2]
        side = int(generator.integers(96, 320))
        top, left = (int(generator.integers(0, limit - side)) for limit in photo.shape[:2])
        crop = Image.fromarray(photo[top : top + side, left : left + side]).resize((64, 64))
        crop.save(FOLDER / f"{index:03d}.jpg")

# %% [markdown]
# Some images are held out for validation. The palette is fitted to the training images.

# %%
data = igpt_keras.open_data(f"folder:{FOLDER}")
train = igpt_keras.data.read_images(data.train, image_size=IMAGE_SIZE).images
validation = igpt_keras.data.read_images(data.validation, image_size=IMAGE_SIZE).images
palette = igpt_keras.ColorPalette.fit(train, num_colors=64)
print(len(train), "training images,", len(validation), "validation images")

# %%
config = igpt_keras.ImageGPTConfig(
    image_size=IMAGE_SIZE, vocabulary_size=64, hidden_dim=64, num_layers=4, num_heads=4
)
model = igpt_keras.ImageGPT(config, tokenizer=palette)
model.compile()
history = model.fit(train, batch_size=32, epochs=4, validation_data=(validation, None), verbose=2)

# %% [markdown]
# Keep the upper half of some validation images and let the model sample the rest.

# %%
images = validation[:4]
completions = model.generate(images, keep_rows=IMAGE_SIZE // 2, num_completions=4, seed=0)
known = known_rows(IMAGE_SIZE, keep_rows=IMAGE_SIZE // 2)
sheet = completion_sheet(images, completions.images, known, title="Validation images")
sheet.save("completions.png")
sheet

# %%
model.save_to_preset("my-model", overwrite=True)

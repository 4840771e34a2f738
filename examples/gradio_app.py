"""A Gradio page that completes images row by row, over `serving.client`; also a Space.

    python -m pip install -e '.[serve,gradio]'
    python examples/gradio_app.py my-model
    IGPT_SERVER=http://localhost:8501 python examples/gradio_app.py

The first serves a model itself, the second asks a server, such as `igpt serve served --rest-port
8501`. Without an argument, the variable IGPT_MODEL names the model.
"""

import os
import sys
import tempfile

import gradio as gr
from PIL import Image

from igpt_keras import InputError, samplers
from serving import Client, ServingError

PICTURE_SIZE = 320


def serve(model: str) -> str:
    """Serves a model until the process ends, and returns the address."""
    import igpt_keras
    from serving import Server, export

    folder = tempfile.mkdtemp()
    export(igpt_keras.load(model), folder)
    server = Server(folder, port=0, rest_port=0)
    server.start()
    return server.rest_address


def page(client: Client) -> gr.Interface:
    """Builds the page for what a client asks."""
    # The first part of an answer tells the model's size, and there it ends.
    size = next(client.complete_rows(None)).images.shape[1]

    def complete(image, keep_rows, count, temperature, top_p, seed):
        sampler = samplers.Categorical(temperature, top_p=top_p)
        settings = {"num_completions": count, "sampler": sampler, "seed": seed}
        if image is not None:
            settings["keep_rows"] = keep_rows
        try:
            for partial in client.complete_rows(image, **settings):
                pictures = [Image.fromarray(completion) for completion in partial.images]
                yield [p.resize((PICTURE_SIZE,) * 2, Image.Resampling.NEAREST) for p in pictures]
        except (InputError, ServingError) as error:
            raise gr.Error(str(error)) from None

    return gr.Interface(
        complete,
        [
            gr.Image(type="pil", label="Image; without one, new images are sampled"),
            gr.Slider(0, size, size // 2, step=1, label=f"Rows that are kept, of {size}"),
            gr.Slider(1, 8, 4, step=1, label="Completions"),
            gr.Slider(0, 2, 1, step=0.05, label="Temperature"),
            gr.Slider(0.05, 1, 1, step=0.05, label="Top-p"),
            gr.Number(0, precision=0, minimum=0, label="Seed"),
        ],
        gr.Gallery(label="Completions", columns=4, format="png"),
        title="Image GPT",
        submit_btn="Complete",
        flagging_mode="never",
    )


if __name__ == "__main__":
    model = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("IGPT_MODEL")
    if model is None and "IGPT_SERVER" not in os.environ:
        sys.exit(__doc__)
    address = serve(model) if model else os.environ["IGPT_SERVER"]
    with Client(address, timeout=600) as client:
        page(client).launch()

"""Downloads models from the Hugging Face Hub."""

import pathlib
import re

from igpt_keras.convert.huggingface.layout import TORCH_FILE
from igpt_keras.errors import InputError, first_line
from igpt_keras.extras import require

SCHEME = "hf://"
URI = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
# The files of a Transformers folder, or of a preset folder of this package.
PATTERNS = ["*.json", "*.safetensors", "*.npy", "*.h5"]
WEIGHTS_SUFFIXES = (".safetensors", ".h5")


def download(uri: str) -> pathlib.Path:
    """Downloads a model from the Hugging Face Hub, unless it is in the local cache.

    ```python
    folder = download("hf://openai/imagegpt-small")
    ```

    Args:
        uri: `hf://<owner>/<name>`, or `hf://<owner>/<name>@<revision>` for a branch, tag or
            commit. The environment variables of `huggingface_hub` apply, such as
            `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE`.

    Returns:
        The folder of the cached files.

    Raises:
        InputError: The URI has another form, huggingface_hub is not installed, or the Hub
            does not give the model.
    """
    match = URI.fullmatch(uri)
    if match is None:
        raise InputError(f"preset must be hf://<owner>/<name> or …@<revision>, got {uri!r}")
    repo, revision = match.groups()
    hub = require("huggingface_hub", "hf")
    try:
        folder = pathlib.Path(
            hub.snapshot_download(repo, revision=revision, allow_patterns=PATTERNS)
        )
        if not any(file.suffix in WEIGHTS_SUFFIXES for file in folder.iterdir()):
            # Weights of PyTorch only if there are no others: pickled files are code.
            hub.hf_hub_download(repo, TORCH_FILE, revision=revision)
    except hub.errors.RepositoryNotFoundError as error:
        raise InputError(f"{uri}: there is no repository {repo}, or it is private") from error
    except hub.errors.RevisionNotFoundError as error:
        raise InputError(f"{uri}: {repo} has no revision {revision}") from error
    except (OSError, ValueError) as error:
        # All other errors of huggingface_hub and of the connection are one of these.
        raise InputError(f"{uri} cannot be downloaded: {first_line(error)}") from error
    return folder

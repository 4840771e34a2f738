"""Pre-trains on the workers of Ray Train, which starts all of them again when one fails.

    python -m pip install -e '.[ray]'
    python examples/ray_train.py --data digits --output runs/ray --num-workers 2 \
        image_size=8 num_colors=16 num_layers=2 hidden_dim=32 num_heads=2 steps=200

Settings are those of `igpt_keras.runs.Pretrain.Settings`, as NAME=VALUE. Without a cluster, Ray
starts its workers on this machine; `RAY_ADDRESS` names a cluster. All workers see the same files
under the same paths. Given again, the command resumes the run.
"""

import argparse
import ast
import os
import pathlib
import sys

# Ray reads it when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.train
from ray.train.tensorflow import TensorflowTrainer

from igpt_keras.errors import Diverged
from igpt_keras.runs import Pretrain, read_result


def train(job: dict) -> str | None:
    """Trains in one of the workers; `TF_CONFIG`, which Ray sets, names them all.

    Returns:
        How training diverged; None if it did not.
    """
    os.chdir(job["directory"])
    settings = Pretrain.Settings(**job["settings"])
    try:
        Pretrain.open(settings, job["data"], job["output"], resume=True).run()
    except Diverged as error:
        # An exception would make Ray start it again, and it would diverge again.
        return str(error)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="settings of the run")
    parser.add_argument("--data", required=True, help="source of images, such as folder:photos")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder of the run")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that train together")
    parser.add_argument("--use-gpu", action="store_true", help="give each worker a GPU")
    parser.add_argument("--max-failures", type=int, default=3, help="how often to start again")
    arguments = parser.parse_args()

    settings = dict(map(setting, arguments.settings))
    # A mistake would be one in every worker, and after every restart.
    Pretrain.check(Pretrain.Settings(**settings), arguments.data)
    ray.init(include_dashboard=False)
    trainer = TensorflowTrainer(
        train,
        train_loop_config={
            "directory": os.getcwd(),
            "settings": settings,
            "data": arguments.data,
            "output": str(arguments.output),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=arguments.num_workers, use_gpu=arguments.use_gpu
        ),
        run_config=ray.train.RunConfig(
            name=arguments.output.name,
            storage_path=str(arguments.output.absolute().parent / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=arguments.max_failures),
        ),
    )
    diverged = trainer.fit().return_value
    if diverged is not None:
        print(diverged, file=sys.stderr)
        sys.exit(3)
    loss = read_result(arguments.output).metrics["validation_loss"]
    print(f"Validation loss: {loss:.4f} nats per token. Wrote {arguments.output}")


def setting(text: str) -> tuple:
    """Returns name and value of NAME=VALUE, in which a value that is no literal is a string."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    main()

"""Run folders as the commands write them, with metrics that a test chooses."""

import json

from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.pictures.contact_sheets import contact_sheet, save_png
from igpt_keras.report.runs import find_runs, read_findings
from igpt_keras.runs.result import Result, write_result

SMALL = ImageGPTConfig(image_size=4, vocabulary_size=8, hidden_dim=16, num_layers=3, num_heads=2)
BIG = ImageGPTConfig(image_size=4, vocabulary_size=8, hidden_dim=32, num_layers=3, num_heads=2)


def model(name="ar", objective="ar", config=SMALL, step=100, loss=2.0, path=None, data="folder:p"):
    return {
        "path": path or f"/runs/{name}/snapshots/step-{step}",
        "name": name,
        "data": data,
        "step": step,
        "validation_loss": loss,
        "objective": objective,
        "config": config.to_dict(),
        "parameters": config.parameter_count(objective),
    }


def data(name="folder:/images/cifar10", classes=10, **changes):
    return {
        "data": [name],
        "name": name,
        "train": 900,
        "validation": 100,
        "test": 200,
        "classes": classes,
        "labeled": True,
        **changes,
    }


def write(folder, kind, of, metrics, settings=None, on=None):
    folder.mkdir(parents=True)
    command = f"igpt {kind} --output {folder.name}"
    write_result(Result(kind, command, of, on or data(), settings or {}, metrics), folder)
    return folder


def probe_metrics(test, validation=None, best=None, **changes):
    """Of accuracies by layer: `validation` equals `test`, and `best` is its best, unless given."""
    validation = validation or test
    best = max(range(len(validation)), key=validation.__getitem__) if best is None else best
    return {
        "method": "lbfgs",
        "num_classes": 10,
        "layers": [
            {"layer": index, "validation_accuracy": v, "test_accuracy": t, "C": 1.0}
            for index, (v, t) in enumerate(zip(validation, test, strict=True))
        ],
        "best_layer": best,
        "validation_accuracy": validation[best],
        "test_accuracy": test[best],
        "concatenated": None,
        "low_data": [],
        "voting": None,
        **changes,
    }


def probe(folder, of=None, test=(0.3, 0.5, 0.6, 0.4), on=None, **changes):
    metrics = probe_metrics(list(test), **changes)
    return write(folder, "probe", of or model(), metrics, {"features": "model"}, on)


def baseline(folder, features="pixels", test=0.25, validation=0.3, of=None, **changes):
    metrics = probe_metrics([test], [validation], **changes)
    metrics["best_layer"] = metrics["layers"][0]["layer"] = None
    return write(folder, "probe", of or model(), metrics, {"features": features})


def fine_tuning(folder, of=None, test=0.7, validation=0.72, single=None, on=None, **settings):
    metrics = {
        "history": {},
        "best_epoch": 3,
        "validation_accuracy": validation,
        "test_accuracy": test,
        "test_generative_loss": 2.1234,
        "test_classification_loss": 1.0,
        "single_mask_accuracy": single,
        "votes": None if single is None else 5,
        "trainable_parameters": 1_234,
        "total_parameters": 56_789,
    }
    usual = {"start": "pretrained", "generative_weight": 1.0, "learning_rate": 3e-4, "layer": 3}
    return write(folder, "finetune", of or model(), metrics, {**usual, **settings}, on)


def pretraining(folder, of=None, pictures=()):
    of = of or model(folder.name, path=str(folder / "model"))
    metrics = {
        "history": {"step": [100], "loss": [2.0], "val_loss": [2.0]},
        "validation_loss": 2.00004,
        "test_loss": 2.01236,
        "snapshots": [],
        "images_per_second": 123.45,
        "minutes": 6.78,
    }
    write(folder, "pretrain", of, metrics)
    for name, rows in dict(pictures).items():
        save_png(contact_sheet(rows), folder / name)
    return folder


def evaluation(folder, of=None):
    metrics = {"validation_loss": 2.5, "test_loss": 2.55551, "test_accuracy": None}
    return write(folder, "evaluate", of or model(), metrics)


def comparison(folder, features="layer 2 of image_gpt_nano", real_images=True):
    """An evaluation that also compared generated images."""
    names = ("frechet_distance", "kernel_distance", "kernel_distance_std", "precision", "recall")
    among_real = dict(zip(names, (0.51234, -0.00021, 0.00032, 0.9, 0.91), strict=True))
    among_real |= {"num_images": 900, "num_others": 1100}
    samples = dict(zip(names, (3.98766, 0.01234, 0.00123, 0.8765, 0.4321), strict=True))
    settings = {
        "samples": {"num_images": 1000},
        "reference": {"split": "test", "num_images": 2000},
        "features": {"name": features},
    }
    metrics = {
        "validation_loss": 2.5,
        "samples": {**samples, "real_images": among_real if real_images else None},
    }
    return write(folder, "evaluate", model(), metrics, {"samples": settings})


def history(folder, records):
    """Writes the history of a training to its folder."""
    lines = [json.dumps({"time": 0.0, **record}) + "\n" for record in records]
    (folder / "history.jsonl").write_text("".join(lines))
    return folder


def findings(folder):
    """The results of all runs in `folder`."""
    return read_findings(find_runs([folder]))


def change(folder, edit):
    """Edits the result of the run in `folder`."""
    file = folder / "result.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))

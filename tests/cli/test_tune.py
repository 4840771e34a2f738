import json
import shlex
import signal

import pytest

import igpt_keras
from igpt_keras.cli.command import to_command_line
from igpt_keras.cli.pretrain import pretrain
from igpt_keras.cli.probe import probe
from igpt_keras.runs.folder import only_writer
from igpt_keras.runs.result import read_result
from tests.cli.processes import finish, last_checkpoint, start, wait_for_checkpoint
from tests.training.replicas import free_ports

PRETRAIN = ["tune", "pretrain", "--data", "digits", "--image-size", 8, "--num-colors", 8]
# BERT, for AR draws pictures.
PRETRAIN += ["--batch-size", 32, "--snapshots", 1, "--objective", "bert"]
ONE = ["--num-layers", 1, "--hidden-dim", 16, "--num-heads", 1]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_sizes_and_the_command_that_trains_with_the_winner(igpt, tmp_path):
    output = tmp_path / "tuned sizes"
    arguments = [*PRETRAIN, "--steps", 8, "--sizes", "1x16x1,2x16x2"]
    status, printed, errors = igpt(*arguments, "--start", 0.1, "--floor", 0.1, "--output", output)
    assert status == 0, errors
    # A row as in the paper's Table 5.
    for size in ("1x16x1", "2x16x2"):
        rows = [line for line in printed.splitlines() if size in line and "8² × 3" in line]
        assert len(rows) == 1 and "BERT" in rows[0] and " 0.1 " in rows[0]
    assert printed.count("the floor was reached; the optimum may lie below") == 2
    written = {path.name for path in output.iterdir()}
    assert {"summary.json", "rates.png", "losses-1x16x1.png", "losses-2x16x2.png"} <= written
    for search in summary(output)["searches"]:
        assert search["trials"] == [search["best"]]
        assert f"  {search['command']}\n" in printed
    command = shlex.split(search["command"])
    assert igpt(*command[1:])[0] == 0
    run = output / "best-2x16x2"
    assert read_result(run).metrics["validation_loss"] == search["best"]["score"]
    assert igpt_keras.load(run).config.num_layers == 2


def test_json_is_a_line_for_each_trial(igpt, tmp_path):
    arguments = [*PRETRAIN, *ONE, "--steps", 2, "--start", 0.1, "--floor", 0.1]
    arguments += ["--progress", "json", "--output", tmp_path / "tuned"]
    status, printed, errors = igpt(*arguments)
    assert status == 0
    (line,) = printed.splitlines()
    assert json.loads(line) == summary(tmp_path / "tuned")["searches"][0]["best"]
    assert "Wrote summary.json" in errors
    # Called again, it reads what it found.
    status, printed, errors = igpt(*arguments)
    assert (status, printed) == (0, "")
    assert "learning rate 0.1" in errors


@pytest.mark.slow
def test_fine_tuning_begins_a_tenth_below_the_pretraining(igpt, photos, pretrained, tmp_path):
    model = pretrained("ar")
    arguments = ["tune", "finetune", model, "--data", f"folder:{photos}", "--epochs", 1]
    arguments += ["--batch-size", 8, "--output", tmp_path / "tuned"]
    status, _, errors = igpt(*arguments)
    assert (status, errors.count("\n")) == (2, 1)
    assert "does not tell the learning rate it was pre-trained at" in errors

    file = model / "training.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "learning_rate": 0.03}))
    status, printed, errors = igpt(*arguments, "--floor", 0.001)
    assert status == 0, errors
    (search,) = summary(tmp_path / "tuned")["searches"]
    rates = [trial["learning_rate"] for trial in search["trials"]]
    assert rates == [0.003, 0.001][: len(rates)]
    command = shlex.split(search["command"])
    assert command[:3] == ["igpt", "finetune", str(model)]
    assert igpt(*command[1:])[0] == 0
    metrics = read_result(tmp_path / "tuned" / "best").metrics
    assert metrics["validation_accuracy"] == search["best"]["score"]


@pytest.mark.slow
def test_probes_by_layer(igpt, photos, pretrained, tmp_path):
    model, output = pretrained("ar"), tmp_path / "tuned"
    arguments = ["tune", "probe", model, "--data", f"folder:{photos}", "--epochs", 3]
    status, printed, errors = igpt(*arguments, "--layers", "1,2", "--floor", 3, "--output", output)
    assert status == 0, errors
    searches = summary(output)["searches"]
    assert [search["hyperparameters"]["layer"] for search in searches] == [1, 2]
    for search in searches:
        scores = [trial["score"] for trial in search["trials"]]
        falls = [after < before for before, after in zip(scores, scores[1:], strict=False)]
        assert not any(falls[:-1])
        assert search["trials"][0]["learning_rate"] == 30
    command = shlex.split(search["command"])
    assert igpt(*command[1:])[0] == 0
    metrics = read_result(output / "best-2").metrics
    assert metrics["validation_accuracy"] == search["best"]["score"]
    assert metrics["layers"][0]["learning_rate"] == search["best"]["learning_rate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*ONE, "--steps", 8, "--sizes", "image_gpt_small"], "give --sizes, or one size"),
        (["--steps", 8, "--sizes", "4x64"], "'4x64' is neither one of image_gpt_nano"),
        ([*ONE, "--steps", 8, "--start", 0.1, "--floor", 1], "floor must be at most start=0.1"),
        ([*ONE, "--steps", 8, "--epochs", 1], "give either epochs or steps"),
    ],
)
def test_unusable_options(igpt, tmp_path, arguments, message):
    status, _, errors = igpt(*PRETRAIN, *arguments, "--output", tmp_path / "tuned")
    assert status == 2
    assert message in errors
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pretrain", "--data", "folder:nowhere", *ONE, "--image-size", 8, "--steps", 8],
            "nowhere",
        ),
        (["finetune", "nowhere", "--data", "digits"], "nowhere does not exist"),
        (["finetune", "nowhere", "--data", "digits", "--start", 1], "nowhere does not exist"),
        (["probe", "nowhere", "--data", "digits", "--layers", 0], "nowhere does not exist"),
    ],
)
def test_a_wrong_path_leaves_the_folder_for_the_right_one(igpt, tmp_path, arguments, message):
    status, _, errors = igpt("tune", *arguments, "--output", tmp_path / "tuned")
    assert (status, errors.count("\n")) == (2, 1)
    assert message in errors
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("kind", "part", "options", "message"),
    [
        ("probe", "", ["--layers", "1,3"], "layer must lie in 0…2, got 3"),
        ("finetune", "", ["--layer", 3, "--start", 1], "layer must lie in 0…2, got 3"),
        ("probe", "test", [], "has no labeled test split"),
        ("finetune", "test", ["--start", 1], "no labeled test split"),
    ],
)
def test_what_does_not_fit_leaves_the_folder_for_what_does(
    igpt, photos, pretrained, tmp_path, kind, part, options, message
):
    source = ["--data", f"folder:{photos / part}", "--output", tmp_path / "tuned"]
    status, _, errors = igpt("tune", kind, pretrained("ar"), *source, *options)
    assert (status, errors.count("\n")) == (2, 1)
    assert message in errors
    assert not (tmp_path / "tuned").exists()


def test_another_folder_is_not_written_to(igpt, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    status, _, errors = igpt(*PRETRAIN, *ONE, "--steps", 8, "--output", tmp_path)
    assert (status, errors.count("\n")) == (2, 1)
    assert "exists and does not hold a search" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_second_search_says_so(igpt, tmp_path):
    output = tmp_path / "tuned"
    output.mkdir()
    with only_writer(output):
        status, _, errors = igpt(*PRETRAIN, *ONE, "--steps", 8, "--output", output)
    assert status == 2
    assert f"another process is training in {output}" in errors


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            pretrain,
            "--data digits --data 'folder:my photos' --output 'a b' --no-stop-on-divergence "
            "--remat --steps 3 --num-layers 2 --hidden-dim 16 --num-heads 2 --image-size 8 "
            "--learning-rate 3e-05",
        ),
        (probe, "runs/x --data digits --output y --layers 1,2 --method sgd --learning-rate 30"),
    ],
)
def test_a_command_that_is_written_out_gives_the_values_it_was_written_for(command, line):
    def parsed(words):
        return command.make_context(command.name, words).params

    values = parsed(shlex.split(line))
    written = to_command_line(command, values, always="learning_rate")
    assert parsed(shlex.split(written)[2:]) == values
    assert "--learning-rate" in written


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was trained for a few steps."""
    folder = tmp_path_factory.mktemp("model") / "model"
    process = start(*PRETRAIN[1:], *ONE, "--steps", 8, "--output", folder)
    status, _, errors = finish(process)
    assert status == 0, errors
    return folder


TWO_RATES = ["--start", 1e30, "--factor", 1e31, "--floor", 0.01]
ALL_STATES = ["--checkpoint-every", 1, "--max-checkpoints", 100]
KILLED = {
    "pretrain": [*PRETRAIN[2:], *ONE, "--steps", 100, *TWO_RATES, *ALL_STATES],
    # 4 steps an epoch, at the end of which there is a state.
    "probe": ["--data", "digits", "--layers", 1, "--epochs", 400, "--start", 3, "--floor", 1],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "states", "kill_at", "stop_at"),
    [
        ("pretrain", "run/checkpoints", 40, 60),
        ("probe", "run-checkpoints/fit-00001", 400, 800),
    ],
)
def test_a_search_that_is_killed_ends_like_one_that_was_not(
    model, tmp_path, kind, states, kill_at, stop_at
):
    arguments = ["tune", kind, *([] if kind == "pretrain" else [model]), *KILLED[kind]]
    whole = start(*arguments, "--output", tmp_path / "whole")
    status, _, errors = finish(whole)
    assert status == 0, errors

    output = tmp_path / "cut"
    trial = output / "trial_0001"
    process = start(*arguments, "--output", output)
    wait_for_checkpoint(process, trial / states, kill_at)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert last_checkpoint(trial / states) < stop_at
    begun = {path: path.stat().st_mtime_ns for path in trial.glob("run/run.json")}
    assert len(begun) == (kind != "probe")
    process = start(*arguments, "--output", output)
    wait_for_checkpoint(process, trial / states, stop_at)
    process.send_signal(signal.SIGTERM)
    status, _, errors = finish(process)
    assert status == 128 + signal.SIGTERM, errors
    assert f"resume with: igpt {shlex.join(map(str, arguments))} --output {output}" in errors
    process = start(*arguments, "--output", output)
    status, _, errors = finish(process)
    assert status == 0, errors
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    found = [
        [(trial["learning_rate"], trial["score"]) for trial in search["trials"]]
        for folder in (tmp_path / "whole", output)
        for search in summary(folder)["searches"]
    ]
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_workers_find_what_one_finds(igpt, two_workers, tmp_path):
    # The second rate is 0.01; at higher ones, rounding grows.
    arguments = [*PRETRAIN, *ONE, "--steps", 24, "--start", 1e30, "--factor", 1e32]
    arguments += ["--floor", 0.001, "--output"]
    assert igpt(*arguments, tmp_path / "alone", "--strategy", "none")[0] == 0
    two_workers(*arguments, tmp_path / "tuned")
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "tuned"}
    alone, together = (
        summary(tmp_path / name)["searches"][0]["trials"] for name in ("alone", "tuned")
    )
    assert [trial["status"] for trial in together] == ["diverged", "finished"]
    assert together[1]["score"] == pytest.approx(alone[1]["score"], rel=1e-4)


@pytest.mark.slow
def test_a_chief_and_two_workers_find_what_one_process_finds(igpt, tmp_path):
    arguments = [*PRETRAIN, "--steps", 24, "--sizes", "1x16x1,2x16x2", "--start", 1e30]
    arguments += ["--factor", 1e32, "--floor", 0.001, "--output"]
    (port,) = free_ports(1)
    chief = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    processes = {
        name: start(*arguments, tmp_path / "together", **chief, KERASTUNER_TUNER_ID=name)
        for name in ("chief", "worker-0", "worker-1")
    }
    printed = {}
    for name, process in processes.items():
        status, printed[name], errors = finish(process)
        assert status == 0, (name, errors)
    assert igpt(*arguments, tmp_path / "alone")[0] == 0
    alone, together = (
        {
            (trial["size"], trial["learning_rate"]): (trial["status"], trial["score"])
            for search in summary(tmp_path / name)["searches"]
            for trial in search["trials"]
        }
        for name in ("alone", "together")
    )
    assert [status for status, _ in alone.values()].count("diverged") == 2
    assert len(alone) == 4 and together == alone
    assert "Wrote summary.json" in printed["chief"]
    for worker in ("worker-0", "worker-1"):
        assert "Wrote" not in printed[worker]
        assert "diverged" in printed[worker] and "val_loss" in printed[worker]
    assert {path.name for path in tmp_path.glob("*/trial_*/events")} == {"events"}


@pytest.mark.slow
def test_a_search_on_digits_diverges_first_and_stops_by_the_rule(igpt, tmp_path):
    output = tmp_path / "tuned"
    arguments = ["tune", "pretrain", "--data", "digits", "--image-size", 8, "--num-colors", 8]
    arguments += ["--num-layers", 1, "--hidden-dim", 32, "--num-heads", 1, "--batch-size", 32]
    arguments += ["--epochs", 4, "--snapshots", 2, "--start", 3]
    status, _, errors = igpt(*arguments, "--output", output)
    assert status == 0, errors
    (search,) = summary(output)["searches"]
    first, *others = search["trials"]
    assert (first["learning_rate"], first["status"]) == (3, "diverged")
    scores = [trial["score"] for trial in others if trial["score"] is not None]
    assert search["ending"] == "a trial was worse than the one before it"
    assert scores[-1] > scores[-2]
    assert scores[:-1] == sorted(scores[:-1], reverse=True)
    assert search["best"]["score"] == scores[-2]

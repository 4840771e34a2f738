import json

import numpy as np
from PIL import Image

from igpt_keras.evaluation.predictions import Predictions
from igpt_keras.runs.confusions import describe_confusions, draw_confusions


def predicted(labels, classes, num_classes):
    return Predictions.of([np.eye(num_classes)[classes]], np.array(labels))


def test_errors_are_named_counted_and_drawn_from_the_most_frequent_on(tmp_path):
    names = ["cat", "dog", "frog"]
    predictions = predicted([0, 0, 0, 0, 1, 2, 2], [1, 0, 1, 2, 1, 2, 0], 3)
    confusion = describe_confusions(predictions, names)
    assert json.loads(json.dumps(confusion)) == confusion
    assert confusion["class_names"] == names
    assert confusion["matrix"] == [[1, 2, 1], [0, 1, 0], [1, 0, 1]]
    assert [(*each.values(),) for each in confusion["most_confused"]] == [
        ("cat", "dog", 2, 0.5),
        ("cat", "frog", 1, 0.25),
        ("frog", "cat", 1, 0.5),
    ]
    read = []

    def images(rows):
        read.append(rows.tolist())
        return np.full((len(rows), 4, 4, 3), 10 * rows[:, None, None, None], np.uint8)

    draw_confusions(tmp_path, predictions, names, images)
    assert read == [[0, 2], [3], [6]]
    with Image.open(tmp_path / "confusions.png") as sheet:
        colors = {color for _, color in sheet.convert("L").getcolors(1 << 16)}
    assert {0, 20, 30, 60} <= colors


def test_many_classes_have_no_matrix_and_no_errors_no_picture(tmp_path):
    right = predicted(range(101), range(101), 101)
    confusion = describe_confusions(right, [str(label) for label in range(101)])
    assert confusion["matrix"] is None and confusion["most_confused"] == []
    draw_confusions(tmp_path, right, [], lambda rows: np.zeros((len(rows), 4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())

"""What every split must do, whatever it reads."""

import itertools

import tensorflow as tf


def records(split, items):
    """The records of chunks of items, in turn."""
    columns = ("index", "image_bytes", "label", "name")
    for chunk in items.as_numpy_iterator():
        for item in zip(*(chunk[column] for column in columns), strict=True):
            yield split.record(*item)


def first_names(split, count, **settings):
    return [r.name for r in itertools.islice(records(split, split.shuffled(**settings)), count)]


def check_split(split):
    """Order, epochs, seeds, starts and steps of a split whose records' names differ."""
    count = split.num_examples
    read = list(records(split, split.in_order()))
    in_order = [record.name for record in read]
    assert len(set(in_order)) == count
    assert [record.name for record in records(split, split.in_order())] == in_order
    for start, stop in ((1, 1), (count // 2, count - 1)):
        section = split.in_order(start, stop)
        assert [record.name for record in records(split, section)] == in_order[start:stop]
    assert len({record.image_id or record.name for record in read}) == count

    tf.random.set_seed(1)
    names = first_names(split, 3 * count, seed=5)
    epochs = [names[i : i + count] for i in range(0, 3 * count, count)]
    assert all(sorted(epoch) == sorted(in_order) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    tf.random.set_seed(2)
    assert first_names(split, 3 * count, seed=5) == names
    assert first_names(split, count, seed=6) != epochs[0]
    for start, step in ((1, 1), (count, 1), (count + 2, 1), (0, 3), (count - 1, 2)):
        expected = names[start::step]
        assert first_names(split, len(expected), seed=5, start=start, step=step) == expected


def check_hold_out(split, fraction, held_out):
    """`held_out` images to validate on, the others to train on, with their labels."""

    def label_of(split):
        return {record.name: record.label for record in records(split, split.in_order())}

    train, validation = split.hold_out(fraction, seed=3)
    assert (train.num_examples, validation.num_examples) == (
        split.num_examples - held_out,
        held_out,
    )
    assert train.labeled == validation.labeled == split.labeled
    train_labels, validation_labels = label_of(train), label_of(validation)
    assert len(train_labels) == train.num_examples
    assert len(validation_labels) == held_out
    assert train_labels | validation_labels == label_of(split)
    assert not train_labels.keys() & validation_labels.keys()
    assert label_of(split.hold_out(fraction, seed=3)[1]) == validation_labels
    assert validation.name == f"{split.name} (held out)"
    check_split(train)
    return train, validation

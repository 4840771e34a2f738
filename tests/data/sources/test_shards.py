import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from igpt_keras import InputError
from igpt_keras.data import streamed as streams
from igpt_keras.data.data_set import open_data
from igpt_keras.data.image_decoding import decode
from igpt_keras.data.sources.shards import open_tar, open_tfrecord
from tests.data.properties import check_hold_out, check_split, records

SUFFIXES = ["tar", "tgz"]


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members):
    """A tar of `members`: names and contents."""
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_records(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for features in examples:
            feature = {}
            for key, value in features.items():
                if isinstance(value, bytes):
                    feature[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                else:
                    feature[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def values(split):
    """The gray of every image by its order, and its label."""
    read = records(split, split.in_order())
    return [(int(decode(record.image)[0, 0, 0]), record.label) for record in read]


class TestTar:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_labels_beside_images(self, tmp_path, suffix):
        for shard in range(2):
            members = [("./readme.txt", b"text")]
            for index in range(4):
                key = f"sub.folder/{shard}{index}"
                number = 10 * shard + index
                members += [(f"{key}.cls", b"%d" % (index % 3)), (f"{key}.PNG", png(number))]
                members += [(f"{key}.mask.png", png(255)), (f"{key}.json", b"{}")]
            write_tar(tmp_path / f"shard-{shard}.{suffix}", members)
        source = open_tar(str(tmp_path / f"shard-*.{suffix}"), None)
        assert source.class_names == ["0", "1", "2"]
        assert (source.validation, source.test) == (None, None)
        expected = [(10 * shard + index, index % 3) for shard in range(2) for index in range(4)]
        assert values(source.train) == expected

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("root", ["", "./", "photos/"])
    def test_a_packed_folder(self, tmp_path, suffix, root):
        members = [
            (f"{root}train/dog/1.png", png(1)),
            (f"{root}train/cat/2.png", png(2)),
            (f"{root}train/dog/3.png", png(3)),
            (f"{root}train/dog/notes.txt", b"text"),
            (f"{root}validation/cat/4.png", png(4)),
            (f"{root}test/dog/5.png", png(5)),
            (f"{root}more/dog/6.png", png(6)),
            (f"{root}more/cat/7.png", png(7)),
        ]
        path = tmp_path / f"all.{suffix}"
        write_tar(path, members)
        source = open_tar(str(path), None)
        assert source.class_names == ["cat", "dog"]
        assert values(source.train) == [(1, 1), (2, 0), (3, 1)]
        assert values(source.validation) == [(4, 0)]
        assert values(source.test) == [(5, 1)]
        folded = open_data(f"tar:{path}", train_on_validation=True)
        assert values(folded.train) == [(1, 1), (2, 0), (3, 1), (4, 0)]
        assert values(open_tar(str(path), "more").train) == [(6, 1), (7, 0)]

    @pytest.mark.parametrize(("suffix", "folder"), [("tar", ""), ("tar.gz", "cat/")])
    def test_epochs_and_held_out_images(self, tmp_path, suffix, folder):
        for shard in range(3):
            members = [(f"{folder}{shard}-{index}.png", png(index)) for index in range(9)]
            write_tar(tmp_path / f"{shard}.{suffix}", members)
        split = open_tar(str(tmp_path / f"*.{suffix}"), None).train
        assert split.labeled == bool(folder)
        check_split(split)
        check_hold_out(split, 0.1, 3)

    def test_a_stream_is_shuffled_within_its_buffer(self, tmp_path, monkeypatch):
        monkeypatch.setattr(streams, "SHUFFLE_BUFFER", 5)
        write_tar(tmp_path / "a.tgz", [(f"{index}.png", png(index)) for index in range(40)])
        split = open_tar(str(tmp_path / "a.tgz"), None).train
        check_split(split)
        (first,) = list(records(split, split.shuffled(0).take(1)))[:1]
        assert int(decode(first.image)[0, 0, 0]) < 5

    def test_the_order_of_packed_files_changes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(streams, "SHUFFLE_BUFFER", 1)
        for shard in range(4):
            members = [(f"{shard}-{index}.png", png(index)) for index in range(8)]
            write_tar(tmp_path / f"{shard}.tgz", members)
        split = open_tar(str(tmp_path / "*.tgz"), None).train
        names = [record.name for record in records(split, split.shuffled(0).take(4))]
        shards = [name.rpartition(":")[2].partition("-")[0] for name in names]
        orders = {tuple(shards[start : start + 32 : 8]) for start in range(0, 128, 32)}
        assert len(orders) > 1
        assert all(sorted(order) == list("0123") for order in orders)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_the_fingerprint_tells_files_and_parts(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        members = [(f"{index}.png", png(index)) for index in range(10)]
        write_tar(path, members)
        split = open_tar(str(path), None).train
        prints = [split.fingerprint(), *(half.fingerprint() for half in split.hold_out(0.5, 0))]
        assert len(set(prints)) == 3
        assert open_tar(str(path), None).train.fingerprint() == prints[0]
        write_tar(path, [*members[:9], ("9.png", png(77))])
        assert open_tar(str(path), None).train.fingerprint() != prints[0]

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ([("notes.txt", b"text")], "holds no images"),
            ([("1.png", png(1)), ("1.cls", b"cat")], "1.cls must hold one integer, got b'cat'"),
            ([("1.png", png(1)), ("1.cls", b"-1")], "has no label from 0 on for 1.png"),
            ([("1.png", png(1)), ("2.png", png(2)), ("1.cls", b"0")], "no label .* for 2.png"),
            ([("1.txt", b""), ("1.cls", b"0")], "no images beside its .cls files"),
        ],
    )
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_unusable_contents(self, tmp_path, suffix, members, message):
        write_tar(tmp_path / f"a.{suffix}", members)
        with pytest.raises(InputError, match=message):
            open_tar(str(tmp_path / f"a.{suffix}"), None)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_damaged_files(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(b"This is a text." * 100)
        with pytest.raises(InputError, match=f"a.{suffix} is not a tar file, or damaged"):
            open_tar(str(path), None)
        noise = np.random.default_rng(0).bytes(100_000)
        write_tar(path, [("1.png", noise), ("2.png", noise)])
        path.write_bytes(path.read_bytes()[:-50_000])
        with pytest.raises(InputError, match="is not a tar file, or damaged"):
            open_tar(str(path), None)

    def test_no_files(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"\*.tar matches no file"):
            open_tar(str(tmp_path / "*.tar"), None)


class TestRecords:
    @pytest.mark.parametrize(
        ("image", "label"), [("image/encoded", "image/class/label"), ("image", "label")]
    )
    def test_images_and_labels(self, tmp_path, image, label):
        for shard in range(2):
            examples = [
                {image: png(10 * shard + index), label: index % 3, "height": 2}
                for index in range(4)
            ]
            write_records(tmp_path / f"{shard}.tfrecord", examples)
        source = open_tfrecord(str(tmp_path / "*.tfrecord"))
        assert source.class_names == ["0", "1", "2"]
        expected = [(10 * shard + index, index % 3) for shard in range(2) for index in range(4)]
        assert values(source.train) == expected

    @pytest.mark.parametrize("labels", [True, False])
    def test_epochs_and_held_out_images(self, tmp_path, labels):
        examples = [
            {"jpg": png(index), **({"label": index % 2} if labels else {})} for index in range(45)
        ]
        write_records(tmp_path / "a.tfrecord", examples)
        split = open_tfrecord(str(tmp_path / "a.tfrecord")).train
        assert split.labeled == labels
        check_split(split)
        check_hold_out(split, 0.1, 4)

    def test_unusable_contents(self, tmp_path):
        path = tmp_path / "a.tfrecord"
        for examples, message in (
            ([], "holds no records"),
            ([{"text": b"text", "id": 3}], "no encoded image under .*; it holds id, text"),
            ([{"image": png(1), "label": 1}, {"image": png(1)}], "at .* has no label, but"),
        ):
            write_records(path, examples)
            with pytest.raises(InputError, match=message):
                open_tfrecord(str(path))
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(b"\xff\xff")
        with pytest.raises(InputError, match="is not a tf.train.Example"):
            open_tfrecord(str(path))

    def test_damaged_files(self, tmp_path):
        path = tmp_path / "a.tfrecord"
        write_records(path, [{"image": png(index)} for index in range(3)])
        whole = path.read_bytes()
        for content in (whole[:-1], whole + b"\0\0", b"This is a text."):
            path.write_bytes(content)
            with pytest.raises(InputError, match="a.tfrecord is not a TFRecord file, or compr"):
                open_tfrecord(str(path))


def test_mixed_with_weights_and_shared_by_workers(tmp_path):
    from igpt_keras import ColorPalette
    from igpt_keras.data.stream import TrainingStream

    write_tar(tmp_path / "a.tgz", [(f"{index}.png", png(index)) for index in range(20)])
    write_records(tmp_path / "b.tfrecord", [{"image": png(100 + index)} for index in range(30)])
    grays = ColorPalette(np.repeat(np.arange(256)[:, None] / 127.5 - 1, 3, axis=1))
    specs = [f"tar:{tmp_path}/a.tgz@weight=3", f"tfrecord:{tmp_path}/b.tfrecord@weight=1"]
    stream = TrainingStream(open_data(specs).sources, grays, 1, 8, seed=3)

    def numbers(count, **where):
        batches = stream.dataset(**where).take(count)
        return np.stack([batch.numpy()[:, 0] for batch in batches])

    seen = numbers(60)
    assert abs((seen < 100).mean() - 0.75) < 5 * np.sqrt(0.75 * 0.25 / seen.size)
    np.testing.assert_array_equal(numbers(5, start_step=7), seen[7:12])
    shares = [numbers(5, start_step=7, worker=worker, num_workers=2) for worker in range(2)]
    np.testing.assert_array_equal(np.stack(shares, axis=2).reshape(5, 8), seen[7:12])

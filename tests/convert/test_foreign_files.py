"""Files made by someone who means harm: each is one line of error, before anything is allocated."""

import json
import os
import pathlib
import shutil
import struct
import zipfile

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import igpt_keras
from igpt_keras import ColorPalette, ImageGPT, ImageGPTClassifier, InputError
from igpt_keras.json_files import MAX_BYTES, read_json
from tests.conftest import FIXTURES

CAUSAL = FIXTURES / "hf" / "causal"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
KERNEL = "backbone/blocks/block/mlp/up_proj/vars/0"


def refused(path, message):
    with pytest.raises(InputError, match=message) as error:
        igpt_keras.load(path)
    assert len(str(error.value).splitlines()) == 1
    assert str(path) in str(error.value)


def edit_json(file, *keys, value):
    content = json.loads(file.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file.write_text(json.dumps(content))


class TestPresetFolder:
    @pytest.fixture
    def folder(self, config, palette, tmp_path):
        classifier = ImageGPTClassifier(config, 3, tokenizer=palette)
        return classifier.save_to_preset(tmp_path / "model")

    @pytest.mark.parametrize(
        ("keys", "value"),
        [
            (("config", "image_size"), 10**6),
            (("config", "vocabulary_size"), 10**12),
            (("config", "hidden_dim"), 10**9),
            (("config", "num_layers"), 10**12),
            (("num_classes",), 10**12),
        ],
    )
    def test_sizes(self, folder, keys, value):
        edit_json(folder / "igpt.json", "settings", *keys, value=value)
        refused(folder, "model.weights.h5 .*another shape: it has [0-9,]+ numbers for the")

    @pytest.mark.parametrize(
        ("keys", "value"),
        [
            (("config",), 3),
            (("config", "num_layers"), "2"),
            (("config", "num_layers"), None),
            (("config", "attention"), ["dense"]),
            (("num_classes",), "3"),
            (("num_classes",), [3]),
            (("class_names",), 3),
            (("layer",), "last"),
            (("generative_weight",), "1"),
            (("mask_probability",), {}),
            (("objective",), ["ar"]),
            (("dtype",), 5),
            (("dtype",), "float99"),
            (("dtype",), {"module": "os", "class_name": "system", "config": {"command": "ls"}}),
            (("name",), "a/b"),
            (("surprise",), 1),
        ],
    )
    @pytest.mark.parametrize("overrides", [{}, {"tokenizer": None}])
    def test_types(self, folder, keys, value, overrides):
        edit_json(folder / "igpt.json", "settings", *keys, value=value)
        with pytest.raises(InputError, match=r"igpt\.json") as error:
            ImageGPTClassifier.from_preset(folder, **overrides)
        assert len(str(error.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("key", "value"), [("class_name", ["ImageGPT"]), ("class_name", None), ("settings", "ar")]
    )
    def test_description(self, folder, key, value):
        edit_json(folder / "igpt.json", key, value=value)
        with pytest.raises(InputError):
            igpt_keras.load(folder)

    @pytest.mark.parametrize("content", ["[]", "3", "null", '"x"'])
    @pytest.mark.parametrize("name", ["igpt.json", "tokenizer.json"])
    def test_other_json(self, folder, name, content):
        (folder / name).write_text(content)
        refused(folder, f"{name} must (hold a JSON|be an) object")

    def test_unhashable_kind_of_tokenizer(self, folder):
        edit_json(folder / "tokenizer.json", "kind", value=["color_palette"])
        with pytest.raises(InputError, match="tokenizer must be one of"):
            igpt_keras.load(folder)

    def test_training_that_is_no_object(self, folder):
        (folder / "training.json").write_text("[1]")
        with pytest.raises(InputError, match="training.json must hold a JSON object"):
            igpt_keras.saving.read_training(folder)

    @pytest.mark.parametrize("kind", ["unstored", "external", "soft link", "external link", "loop"])
    def test_weights_that_are_elsewhere(self, folder, kind):
        """HDF5 can declare tensors without storing them, and point to any file."""
        with h5py.File(folder / "model.weights.h5", "r+") as file:
            shape = file[KERNEL].shape
            if kind != "loop":
                del file[KERNEL]
            if kind == "unstored":
                file.create_dataset(KERNEL, (10**7, 10**7), "float32", chunks=(1000, 1000))
            elif kind == "external":
                secret = [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
                file.create_dataset(KERNEL, shape, "uint8", external=secret)
            elif kind == "soft link":
                file[KERNEL] = h5py.SoftLink("/class_head/vars/0")
            elif kind == "external link":
                file[KERNEL] = h5py.ExternalLink("/etc/other.h5", "/x")
            else:
                file["backbone/again"] = file["backbone"]
        refused(
            folder,
            {
                "unstored": "declared with 400,000,000,000,000 bytes, of which 0",
                "external": "lies in another file",
                "loop": "stored under two names",
            }.get(kind, "is a link"),
        )

    @pytest.mark.parametrize("replacement", ["text", "group"])
    def test_weights_of_another_kind(self, folder, replacement):
        with h5py.File(folder / "model.weights.h5", "r+") as file:
            file.create_dataset("vars/0", data=np.zeros(10**4, np.float32))  # Enough numbers.
            del file[KERNEL]
            if replacement == "text":
                file[KERNEL] = np.full((16, 64), b"x")
            else:
                file.create_group(KERNEL)
        refused(folder, "model.weights.h5 is damaged")


class TestKerasFile:
    @pytest.fixture
    def file(self, config, tmp_path):
        ImageGPT(config).save(tmp_path / "model.keras")
        return tmp_path / "model.keras"

    def repack(self, file, compression=zipfile.ZIP_STORED, **members):
        with zipfile.ZipFile(file) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, data in {**content, **members}.items():
                archive.writestr(name, data)

    def test_sizes(self, file):
        with zipfile.ZipFile(file) as archive:
            settings = json.loads(archive.read("config.json"))
        settings["config"]["config"]["num_layers"] = 10**12
        self.repack(file, **{"config.json": json.dumps(settings)})
        refused(file, "model.keras: .*numbers for the [0-9,]+ parameters")

    @pytest.mark.parametrize("content", ["[]", "3", '{"class_name": [], "config": 3}', "[" * 10**5])
    def test_other_json(self, file, content):
        self.repack(file, **{"config.json": content})
        refused(file, "model.keras (is damaged|holds a)")

    def test_a_bomb(self, file):
        self.repack(file, zipfile.ZIP_DEFLATED, **{"config.json": " " * 10**8})
        refused(file, "model.keras would unpack to 100,[0-9,]+ bytes")


class TestHuggingFace:
    @pytest.fixture
    def folder(self, tmp_path):
        return pathlib.Path(shutil.copytree(CAUSAL, tmp_path / "causal"))

    @pytest.mark.parametrize("size", [10**12, 10**400])
    @pytest.mark.parametrize("name", ["vocab_size", "n_layer", "n_embd", "n_positions"])
    def test_sizes(self, folder, name, size):
        edit_json(folder / "config.json", name, value=size)
        with pytest.raises(InputError, match=f"{WEIGHTS}|config.json"):
            igpt_keras.load(folder)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("vocab_size", [513]),
            ("n_layer", {}),
            ("n_inner", "x"),
            ("activation_function", ["quick_gelu"]),
            ("architectures", 5),
            ("id2label", 5),
            ("id2label", {}),
            ("id2label", {"0": ["cat"], "1": None}),
        ],
    )
    def test_types(self, folder, name, value):
        tensors = load_file(folder / WEIGHTS)
        save_file({**tensors, "score.weight": np.ones((2, 48), np.float32)}, folder / WEIGHTS)
        if name == "id2label":
            edit_json(
                folder / "config.json", "architectures", value=["ImageGPTForImageClassification"]
            )
        edit_json(folder / "config.json", name, value=value)
        refused(folder, f"config.json: {name} ")

    @pytest.mark.parametrize(
        "clusters", ["abc", {"a": 1}, [["0", "0", "0"]], [[True, True, True]], [[None] * 3], 5]
    )
    def test_palettes(self, folder, clusters):
        edit_json(folder / "preprocessor_config.json", "clusters", value=clusters)
        refused(folder, "preprocessor_config.json: clusters are not a palette")

    @pytest.mark.parametrize(
        "content",
        [
            struct.pack("<Q", 2**63),
            struct.pack("<Q", 10**9) + b"{}",
            struct.pack("<Q", 10**5) + b"[" * 10**5,
            struct.pack("<Q", 2) + b"[]",
        ],
    )
    def test_header_of_weights(self, folder, content):
        (folder / WEIGHTS).write_bytes(content)
        refused(folder, f"{WEIGHTS} is damaged")

    @pytest.mark.parametrize("offsets", [[0, 4 * 10**12], [0, 8], [8, 4], [-4, 0]])
    def test_tensors_beyond_the_file(self, folder, offsets):
        header = {"x": {"dtype": "F32", "shape": [10**12], "data_offsets": offsets}}
        text = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
        refused(folder, f"{WEIGHTS} is damaged")

    @pytest.mark.parametrize("dtype", ["int64", "bool"])
    def test_numbers_of_another_kind(self, folder, dtype):
        tensors = load_file(folder / WEIGHTS)
        name = "transformer.ln_f.weight"
        save_file({**tensors, name: tensors[name].astype(dtype)}, folder / WEIGHTS)
        refused(folder, f"{name} must hold floating-point numbers, got")


class TestShards:
    @pytest.fixture
    def folder(self, tmp_path):
        """One shard with all tensors, and its index."""
        folder = pathlib.Path(shutil.copytree(CAUSAL, tmp_path / "causal"))
        (folder / WEIGHTS).rename(folder / "model-1.safetensors")
        return self.indexed(folder, "model-1.safetensors")

    def indexed(self, folder, shard):
        names = load_file(CAUSAL / WEIGHTS)
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))
        return folder

    def test_beside_the_index(self, folder):
        assert igpt_keras.load(folder).config.hidden_dim == 48

    @pytest.mark.parametrize(
        "name", ["../outside.safetensors", "{}/outside.safetensors", "..", ".", "", "sub/x", "\0"]
    )
    def test_names_outside(self, folder, tmp_path, name):
        shutil.copy(CAUSAL / WEIGHTS, tmp_path / "outside.safetensors")
        refused(self.indexed(folder, name.format(tmp_path)), "next to it, got|is missing")

    def test_a_link_out_of_the_folder(self, folder, tmp_path):
        (folder / "model-1.safetensors").rename(tmp_path / "outside.safetensors")
        (folder / "model-1.safetensors").symlink_to("../outside.safetensors")
        refused(folder, "model-1.safetensors is a link out of its folder")

    def test_links_in_the_cache_of_the_hub(self, folder, tmp_path):
        cached = tmp_path / "models--a--b"
        (cached / "snapshots").mkdir(parents=True)
        (cached / "blobs").mkdir()
        folder = folder.rename(cached / "snapshots" / "0123abc")
        for file in list(folder.iterdir()):
            file.rename(cached / "blobs" / file.name)
            file.symlink_to(f"../../blobs/{file.name}")
        assert igpt_keras.load(folder).config.hidden_dim == 48

    def test_a_pipe(self, folder):
        (folder / "model-1.safetensors").unlink()
        os.mkfifo(folder / "model-1.safetensors")
        refused(folder, "model-1.safetensors is missing")

    @pytest.mark.parametrize("weight_map", [[], "x", {"a": 5}, {"a": None}, {"a": ["b"]}])
    def test_types(self, folder, weight_map):
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        refused(folder, "weight_map must name the file of each tensor")

    def test_a_tensor_that_the_shard_lacks(self, folder):
        edit_json(folder / INDEX, "weight_map", "transformer.x", value="model-1.safetensors")
        refused(folder, "weight_map looks for transformer.x in model-1.safetensors")


class TestOriginalCheckpoint:
    def test_a_variable_of_which_a_part_is_stored(self, tmp_path):
        """A checkpoint of slices declares the shape of the whole variable."""
        tf = pytest.importorskip("tensorflow")
        reader = tf.train.load_checkpoint(str(FIXTURES / "openai_ar"))
        values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
        wte = values["model/wte"]
        slices = [
            f"1000000000000 {wte.shape[1]} 0,{len(wte)}:-" if name == "model/wte" else ""
            for name in values
        ]
        prefix = str(tmp_path / "model.ckpt-1")
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(values),
            shape_and_slices=slices,
            tensors=[tf.constant(value) for value in values.values()],
        )
        refused(prefix, "index declares [0-9,]{15,} bytes of variables, .*data-. hold")

    def test_a_checkpoint_elsewhere(self, tmp_path):
        pytest.importorskip("tensorflow")
        prefix = FIXTURES / "openai_ar" / "model.ckpt-1000000"
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n')
        refused(tmp_path, "names a checkpoint elsewhere")

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"a: b", b""])
    def test_a_list_of_checkpoints_that_is_none(self, tmp_path, content):
        pytest.importorskip("tensorflow")
        (tmp_path / "checkpoint").write_bytes(content)
        refused(tmp_path, "checkpoint names no checkpoint")


class TestPaletteFile:
    def header(self, shape, dtype="<f4"):
        text = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
        text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text

    @pytest.mark.parametrize(
        "shape, dtype",
        [((10**12, 3), "<f4"), ((10**9, 10**3), "<f4"), ((-1, 3), "<f4"), ((), "|O")],
    )
    def test_more_than_the_file_holds(self, tmp_path, shape, dtype):
        file = tmp_path / "palette.npy"
        file.write_bytes(self.header(shape, dtype) + bytes(96))
        with pytest.raises(InputError, match="palette.npy is (not a .npy file|unusable)"):
            ColorPalette.load(file)

    def test_archive(self, tmp_path):
        np.savez(tmp_path / "palette.npz", colors=np.zeros((2, 3)))
        with pytest.raises(InputError, match="palette.npz is unusable"):
            ColorPalette.load(tmp_path / "palette.npz")

    def test_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "palette.npy")
        with pytest.raises(InputError, match="palette.npy is not a file"):
            ColorPalette.load(tmp_path / "palette.npy")

    def test_more_colors_than_there_are(self):
        with pytest.raises(InputError, match="at most 16,777,216, got 20,000,000"):
            ColorPalette(np.broadcast_to(np.float32(0), (20_000_000, 3)))


@pytest.mark.parametrize("content", ["[" * 10**5, "9" * 10**4, "NaN,", b"\xff\xfe"])
def test_json_that_python_stumbles_over(tmp_path, content):
    file = tmp_path / "x.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match="x.json is not valid JSON"):
        read_json(file)


def test_json_of_absurd_length(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="x.json is 67,108,865 bytes of JSON"):
        read_json(tmp_path / "x.json")

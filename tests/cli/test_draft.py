import pytest

from igpt_keras import ImageGPT, ImageGPTConfig, RGBTokenizer
from igpt_keras.sampling.drafts import NeighborDraft


@pytest.mark.slow
def test_a_draft_is_fitted_and_gives_the_same_pixels(igpt, pretrained, photos, tmp_path):
    model, path = pretrained("ar"), tmp_path / "draft.npz"
    status, printed, _ = igpt("draft", model, "--data", f"folder:{photos}", "--output", path)
    assert status == 0
    assert str(path) in printed
    # Of 40 images four are held out.
    assert "Fitted a draft to 36 images" in printed
    assert NeighborDraft.load(path).vocabulary_size == 8

    files = sorted((photos / "test").glob("*/*.png"))
    arguments = ("complete", files[0], "--model", model, "--keep-rows", 1, "--num-completions", 2)
    assert igpt(*arguments, "--output", tmp_path / "plain")[0] == 0
    for draft in (path, model):
        output = tmp_path / f"with-{draft.name}"
        assert igpt(*arguments, "--output", output, "--draft", draft)[0] == 0
        for name in (f"000-{files[0].stem}-00.png", f"000-{files[0].stem}-01.png"):
            assert (output / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize(
    ("output", "message"),
    [("draft.npy", "output must end in .npz, got"), ("there.npz", "there.npz exists already")],
)
def test_a_place_that_will_not_do_is_named(
    igpt, pretrained, photos, tmp_path, output, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.npz").write_bytes(b"")
    status, _, errors = igpt(
        "draft", pretrained("ar"), "--data", f"folder:{photos}", "--output", output
    )
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_tokens_need_not_be_pixels(igpt, photos, tmp_path):
    config = ImageGPTConfig(4, 256, 8, 1, 1, grid=(4, 12))
    path = ImageGPT(config, tokenizer=RGBTokenizer(4)).save_to_preset(tmp_path / "model")
    file = tmp_path / "draft.npz"
    status, _, errors = igpt("draft", path, "--data", f"folder:{photos}", "--output", file)
    assert status == 0, errors
    assert NeighborDraft.load(file).token_grid == (4, 12)

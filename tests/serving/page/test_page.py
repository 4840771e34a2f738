"""The page in a real browser, from the choice of an image to the files of its completions."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from igpt_keras.data.augmentation import center_square, resize_squares
from igpt_keras.pictures.contact_sheets import heat_map
from igpt_keras.sampling.samplers import Categorical
from tests.serving.page.browsing import require_browser

require_browser()

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.slow
START = "#image=temple&model=small"


def seen(model, image, crop=None):
    """The square of an image as a model sees it: in its size and its colors."""
    if crop is not None:
        x, y, side = crop
        image = image[y : y + side, x : x + side]
    return model.tokenizer.detokenize(model.tokenizer.tokenize(fitted(model, image)))[0]


def fitted(model, image):
    return resize_squares([center_square(image)], model.config.image_size)


def known_of(page, size):
    """The painted mask in the address: eight pixels a byte, the first one lowest."""
    text = page.settings()["mask"]
    content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    return bits[: size**2].reshape(size, size).astype(bool)


@pytest.fixture
def opened(page, site, photo_file):
    """The page with the photo and the small model."""
    page.open(site.rest_address, START)
    page.upload(photo_file)
    return page


def test_rows_are_kept_and_the_others_drawn_as_the_model_draws_them(opened, model, photo):
    page = opened
    shown = page.pixels("#view")
    expected = seen(model, photo)
    np.testing.assert_array_equal(shown[:2, :, :3], expected[:2])
    assert (shown[2:, :, :3] != expected[2:]).any(axis=-1).all()
    page.slide("rows", 1)
    page.fill("num_completions", 3)
    page.fill("temperature", 0.75)
    page.fill("top_k", 6)
    page.fill("top_p", 0.9)
    page.fill("seed", 7)
    page.complete()
    drawn = model.generate(
        fitted(model, photo),
        keep_rows=1,
        num_completions=3,
        seed=7,
        sampler=Categorical(0.75, top_k=6, top_p=0.9),
    )
    np.testing.assert_array_equal(page.completions(), drawn.images[0])
    np.testing.assert_array_equal(page.pixels(".tile .pixels")[..., :3], expected)
    scores = [page.text(f".tile:nth-child({n}) .score") for n in (2, 3, 4)]
    printed = [float(score.removesuffix(" nats").replace("−", "-")) for score in scores]
    np.testing.assert_allclose(printed, drawn.log_likelihood[0], atol=0.051)
    # The overlay, in the colors of `igpt complete --entropy`.
    assert not page.is_visible(".tile .heat")
    page.click("#entropy")
    largest = drawn.entropy[0, :, 1:].max()
    for index in range(3):
        heat = page.pixels("button.pictures .heat", index)
        assert page.is_visible("button.pictures .heat")
        np.testing.assert_array_equal(heat[..., 3], np.repeat([0, 255], [4, 12]).reshape(4, 4))
        colors = heat_map(drawn.entropy[0, index, 1:], largest)
        np.testing.assert_allclose(heat[1:, :, :3].astype(int), colors, atol=2)
    assert page.text("#scale-largest") == f"{largest:.2f}"


def test_the_crop_moves_and_zooms_with_mouse_wheel_keys_and_slider(opened, model, photo):
    page = opened
    crop = page.element("#crop")
    side = crop.size["width"]
    assert "crop" not in page.settings()
    ActionChains(page.driver).drag_and_drop_by_offset(crop, side // 12, 0).perform()
    assert page.settings()["crop"] == "4,0,48"
    crop.send_keys(Keys.ARROW_RIGHT * 4)
    assert page.settings()["crop"] == "6,0,48"
    crop.send_keys("+")
    x, y, zoomed = map(int, page.settings()["crop"].split(","))
    assert 16 <= zoomed < 48
    assert abs(x + zoomed / 2 - 30) <= 1 and abs(y + zoomed / 2 - 24) <= 1
    page.ready()
    np.testing.assert_array_equal(
        page.pixels("#view")[:2, :, :3], seen(model, photo, (x, y, zoomed))[:2]
    )
    page.slide("zoom", 1)
    assert page.settings()["crop"].endswith(",16")
    origin = page.run("const {x, y} = arguments[0].getBoundingClientRect(); return [x, y]", crop)
    page.command(
        "Input.dispatchMouseEvent",
        type="mouseWheel",
        x=origin[0] + 10,
        y=origin[1] + 10,
        deltaX=0,
        deltaY=120,
    )
    page.wait("return !location.hash.endsWith(',16') && !location.hash.includes(',16&')")
    crop.send_keys(Keys.HOME)
    assert "crop" not in page.settings()


def test_what_is_sent_is_cut_from_the_original_pixels(opened, photo):
    page = opened
    page.element("#crop").send_keys(Keys.ARROW_RIGHT * 3)
    x, y, side = map(int, page.settings()["crop"].split(","))
    assert (x, y, side) != (8, 0, 48)
    page.ready()
    page.sent()
    page.complete()
    (body,) = page.sent()
    with Image.open(io.BytesIO(base64.b64decode(body.pop("image")["b64"]))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(
            np.asarray(image.convert("RGB")), photo[y : y + side, x : x + side]
        )
    assert body == {
        **{"keep_rows": 2, "num_completions": 4, "temperature": 1},
        **{"top_k": 0, "top_p": 1, "seed": 0},
    }


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_mask_is_painted_with_mouse_and_keys(opened, model, photo):
    page = opened
    page.slide("rows", 4)
    page.click("[name=mode][value=brush]")
    page.slide("brush", 1)
    view = page.element("#view")
    cell = view.size["width"] / 4
    # The offsets are from the middle: across the second row.
    actions = ActionChains(page.driver)
    actions.move_to_element_with_offset(view, int(-1.5 * cell), int(-0.5 * cell)).click_and_hold()
    actions.move_by_offset(int(2 * cell), 0).release().perform()
    expected = np.ones((4, 4), bool)
    expected[1, :3] = False
    np.testing.assert_array_equal(known_of(page, 4), expected)
    # The cursor begins in the upper left corner.
    view.send_keys(Keys.ARROW_DOWN * 3, " ", Keys.SHIFT, Keys.ARROW_RIGHT, Keys.NULL)
    expected[3, :2] = False
    np.testing.assert_array_equal(known_of(page, 4), expected)
    assert page.text("#view-live") == "Row 4, column 2: erased"
    page.click("[name=paint][value=keep]")
    view.send_keys(" ")
    expected[3, 1] = True
    np.testing.assert_array_equal(known_of(page, 4), expected)
    page.complete()
    drawn = model.generate(fitted(model, photo), known_mask=expected, num_completions=4, seed=0)
    np.testing.assert_array_equal(page.completions(), drawn.images[0])
    page.click("#invert")
    np.testing.assert_array_equal(known_of(page, 4), ~expected)
    page.click("#keep-all")
    page.click("#complete")
    assert page.text("#mask-error") == "Every pixel is kept; there is nothing to complete."
    page.click("#erase-all")
    assert page.text("#mask-error") == ""
    assert not known_of(page, 4).any()


def test_reload_and_back_restore_the_settings(page, site):
    page.open(site.rest_address, START)
    page.slide("rows", 3)
    page.fill("num_completions", 2)
    page.fill("seed", 11)
    page.element("#crop").send_keys("+", Keys.ARROW_LEFT)
    page.ready()
    page.complete()
    before, drawn = page.settings(), page.completions()
    page.click("[data-sample=flower]")
    page.wait("return location.hash.includes('image=flower')")
    page.fill("seed", 12)
    page.driver.back()
    page.wait("return location.hash.includes('image=temple')")
    assert page.settings() == before
    page.ready()
    page.driver.refresh()
    page.ready()
    assert page.settings() == before
    page.complete()
    np.testing.assert_array_equal(page.completions(), drawn)
    page.driver.forward()
    page.wait("return location.hash.includes('image=flower')")
    page.ready()
    assert page.settings()["seed"] == "12"


def test_an_own_image_is_no_part_of_the_address(opened):
    page = opened
    page.driver.refresh()
    page.wait("return document.getElementById('image-error').textContent")
    assert page.text("#image-error") == "An address does not hold your image. Choose it again."
    assert not page.element("#complete").is_enabled()
    page.click("[data-sample=digit]")
    page.ready()
    assert page.text("#image-error") == ""


@pytest.mark.parametrize("content", [b"no image", b"\x89PNG\r\n\x1a\n and no more", b""])
def test_a_file_that_is_no_image_is_an_error_beside_the_choice(opened, content, tmp_path):
    page = opened
    before = page.pixels("#crop")
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    page.element("#file").send_keys(str(path))
    page.wait("return document.getElementById('image-error').textContent")
    assert "“broken.png” is not an image" in page.text("#image-error")
    np.testing.assert_array_equal(page.pixels("#crop"), before)
    assert page.element("#complete").is_enabled()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_images_are_dropped_and_pasted(page, site, photo, model, event):
    page.open(site.rest_address, START)
    page.run(
        """const bytes = Uint8Array.from(atob(arguments[0]), (char) => char.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "photo.png", {type: "image/png"}));
        const made = arguments[1] === "drop"
          ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
          : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
        document.body.dispatchEvent(made);""",
        encoded(photo),
        event,
    )
    page.wait("return location.hash.includes('image=own')")
    page.ready()
    np.testing.assert_array_equal(page.pixels("#view")[:2, :, :3], seen(model, photo)[:2])


def test_a_photograph_is_upright_and_large_ones_are_reduced(page, site, tmp_path):
    page.open(site.rest_address, START)
    stored = np.zeros((60, 80, 3), np.uint8)
    stored[:, :40] = 255  # White to the left; turned right, it is at the top.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    page.upload(tmp_path / "turned.jpg")
    shown = page.pixels("#crop")[..., :3].astype(int)
    assert shown[5].min() > 240 and shown[-5].max() < 15
    Image.new("RGB", (4096, 3072), "teal").save(tmp_path / "large.jpg")
    page.upload(tmp_path / "large.jpg")
    page.element("#crop").send_keys(Keys.ARROW_RIGHT)
    # 2048 × 1536, of which a hundredth is 15.
    assert page.settings()["crop"] == "271,0,1536"


def test_transparent_pixels_are_white(page, site, tmp_path):
    page.open(site.rest_address, START)
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    page.upload(tmp_path / "clear.png")
    assert (page.pixels("#crop")[..., :3] == 255).all()


def test_a_picture_is_taken_with_the_camera(page, site):
    page.open(site.rest_address, START)
    page.click("#camera")
    page.wait("return document.querySelector('#shoot:enabled')")
    page.click("#shoot")
    page.wait("return location.hash.includes('image=own')")
    page.ready()
    assert page.run("return document.getElementById('video').srcObject") is None
    assert len(np.unique(page.pixels("#crop").reshape(-1, 4), axis=0)) > 100


def test_the_classes_are_the_classifiers(opened, classifier, photo):
    page = opened
    page.wait("return document.querySelectorAll('#bars li').length")
    logits = classifier.predict(fitted(classifier, photo), verbose=0)[0]
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    rows = page.run("return [...document.querySelectorAll('#bars li')].map((li) => li.innerText)")
    order = np.argsort(-scores)
    expected = [[classifier.class_names[i], f"{100 * scores[i]:.1f}%"] for i in order]
    assert [row.split("\n") for row in rows] == expected


def test_completions_are_enlarged_and_saved(opened):
    page = opened
    page.fill("num_completions", 2)
    page.fill("seed", 5)
    page.complete()
    drawn = page.completions()
    page.click("button.pictures")
    assert page.text("#enlarged-title") == "Completion 1 of 2"
    page.element("#enlarged").send_keys(Keys.ARROW_RIGHT)
    assert page.text("#enlarged-title") == "Completion 2 of 2"
    assert "seed 5" in page.text("#enlarged-about")
    assert "nats" in page.text("#enlarged-about")
    np.testing.assert_array_equal(page.pixels("#enlarged-pixels")[..., :3], drawn[1])
    page.click("#download-small")
    np.testing.assert_array_equal(page.downloaded("small-seed-5-2-4px.png"), drawn[1])
    page.click("#download-large")
    large = page.downloaded("small-seed-5-2-512px.png")
    np.testing.assert_array_equal(large, drawn[1].repeat(128, axis=0).repeat(128, axis=1))
    page.element("#enlarged").send_keys(Keys.ESCAPE)
    assert not page.is_visible("#enlarged")
    page.click("#sheet")
    sheet = page.downloaded("small-seed-5.png")
    cells = sheet[64 : 64 + 160, 16 : 16 + 4 * 176].reshape(160, 4, 176, 3)[:, :, :160]
    shown = cells[20::40, :, 20::40]
    np.testing.assert_array_equal(shown[:, 0], page.pixels(".tile .pixels")[..., :3])
    np.testing.assert_array_equal(shown[:, 2], drawn[0])
    np.testing.assert_array_equal(shown[:, 3], drawn[1])
    assert (shown[2:, 1] == (142, 142, 147)).all()


def test_complete_again_takes_another_seed_and_the_old_one_can_be_kept(opened):
    page = opened
    page.fill("seed", 3)
    page.complete()
    first = page.completions()
    page.complete("#again")
    seed = page.settings()["seed"]
    assert seed != "3" and (page.completions() != first).any()
    page.click("#new-seed")
    assert page.settings()["seed"] != seed
    page.click("#keep-seed")
    assert page.settings()["seed"] == seed
    assert not page.is_visible("#keep-seed")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_completions", 17, "Completions must be a whole number from 1 to 16."),
        ("temperature", -1, "Temperature must be a number from 0 to 100."),
        ("top_k", 1.5, "Top-k must be a whole number from 0 to 1,000,000."),
        ("top_p", 0, "Top-p must be a number above 0, at most 1."),
        ("seed", "", "Seed must be a whole number from 0 to 2,147,483,647."),
    ],
)
def test_errors_are_beside_their_controls(page, site, name, value, message):
    page.open(site.rest_address, START)
    page.fill(name, value)
    assert page.text(f"#{name}-error") == message
    page.click("#complete")
    assert page.run("return document.activeElement.id") == name
    assert page.element(f"#{name}").get_attribute("aria-invalid") == "true"
    page.fill(name, 1)
    assert page.text(f"#{name}-error") == ""


def test_models_that_complete_nothing_say_why(page, site):
    page.open(site.rest_address, "#model=bert")
    assert "It cannot complete images" in page.text("#model-about")
    assert not page.element("#complete").is_enabled()
    page.open(site.rest_address, "#model=foreign")
    assert "It cannot complete images" in page.text("#model-about")
    options = page.run("return [...document.getElementById('model').options].map((o) => o.text)")
    assert options == ["bert · 4 × 4", "foreign", "slow · 32 × 32", "small · 4 × 4"]
    page.element("#model").send_keys("slow")
    page.wait("return document.querySelector('#complete:enabled')")
    assert page.text("#view-size") == "32 × 32"


def test_an_address_with_nonsense_is_as_none(page, site):
    page.open(
        site.rest_address,
        "#image=constructor&model=x&crop=1,2&rows=-3&mask=%&temperature=hot&seed=1e99&top_p=7",
    )
    page.ready()
    settings = page.settings()
    # The first that completes images.
    assert settings["image"] == "temple" and settings["model"] == "slow"
    assert (settings["temperature"], settings["seed"], settings["top_p"]) == ("1", "0", "1")
    assert settings["rows"] == "16" and "mask" not in settings and "crop" not in settings


def test_no_request_leaves_the_server_and_nothing_is_complained_of(page, site, photo_file):
    page.requests(), page.errors()
    page.open(site.rest_address, START)
    page.upload(photo_file)
    page.complete()
    page.click("button.pictures")
    urls = [request["url"] for request in page.requests()]
    urls = [url for url in urls if not url.startswith(("blob:", "data:", "about:"))]
    assert urls and all(url.startswith(f"{site.rest_address}/") for url in urls)
    assert {url.removeprefix(site.rest_address) for url in urls} >= {
        *("/page/js/main.js", "/v1/models", "/page/samples/temple.jpg"),
    }
    assert page.errors() == []

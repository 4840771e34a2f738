/** The part of the image that is used: dragged and zoomed with mouse, fingers or keys. */

import { cut } from "./image.js";
import { base64Of, toPng } from "./pixels.js";
import { Square } from "./square.js";

/** One press of a key moves by this part of the square; with Shift ten times as far. */
const KEY_STEP = 0.01;
const ZOOM_STEP = 0.05;
/** Below this many pixels, an image is shown as pixels. */
const SHOWN_AS_PIXELS = 64;
/** A crop is never smaller, unless the image is. */
const SMALLEST_SIDE = 16;

/** Shows the square of an image, and lets it be moved. */
export class Crop {
  #image = null;
  #square = null;
  #pointers = new Map();
  #encoded = { image: null, key: "", text: Promise.resolve("") };

  /**
   * @param {HTMLCanvasElement} canvas Where the square is shown.
   * @param {HTMLInputElement} slider The zoom, 0…1.
   * @param {() => void} onChange Called when another part is shown.
   */
  constructor(canvas, slider, onChange) {
    this.canvas = canvas;
    this.slider = slider;
    this.onChange = onChange;
    slider.addEventListener("input", () => this.#change(() => this.#square.zoomTo(+slider.value)));
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    canvas.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#onDown(event));
    canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.#onUp(event));
    }
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  /** The whole image; null if there is none. */
  get image() {
    return this.#image;
  }

  /** Whether there is an image. */
  get hasImage() {
    return this.#image !== null;
  }

  /** Whether the square is the one that an image begins with. */
  get isWhole() {
    return !this.#square || this.#square.isWhole;
  }

  /** Left, top and side in pixels of the image. */
  get values() {
    return this.#square && [this.#square.x, this.#square.y, this.#square.side];
  }

  /**
   * Shows another image, or none.
   *
   * @param {HTMLCanvasElement | null} image
   * @param {number[] | null} [values] As `values`; null for the largest square in the middle.
   */
  show(image, values = null) {
    if (image !== this.#image) {
      this.#image = image;
      this.#square = image && new Square(image.width, image.height, SMALLEST_SIDE);
    }
    if (!image) {
      this.#draw();
    } else if (String(values) !== String(this.values)) {
      this.#square.reset();
      if (values) this.#square.set(...values);
    }
    this.#update();
  }

  /**
   * Returns the square as a PNG in base 64, pixel for pixel.
   *
   * @returns {Promise<string>}
   */
  async encoded() {
    const key = `${this.values}`;
    if (this.#encoded.image !== this.#image || this.#encoded.key !== key) {
      const text = toPng(cut(this.#image, this.#square)).then(base64Of);
      this.#encoded = { image: this.#image, key, text };
    }
    return this.#encoded.text;
  }

  /**
   * Moves or zooms the square, and says so if that changed it.
   *
   * @param {() => void} act
   */
  #change(act) {
    if (!this.#square) return;
    const before = String(this.values);
    act();
    if (String(this.values) === before) return;
    this.#update();
    this.onChange();
  }

  /** Draws the square and sets the slider. */
  #update() {
    this.slider.disabled = !this.#square || this.#square.smallest === this.#square.largest;
    this.slider.value = String(this.#square?.zoom ?? 0);
    this.#draw();
  }

  /** Draws the square at the resolution of the screen. */
  #draw() {
    const size = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (!size) return;
    if (this.canvas.width !== size) this.canvas.width = this.canvas.height = size;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    if (!this.#square) return;
    const { x, y, side } = this.#square;
    context.imageSmoothingEnabled = side > SHOWN_AS_PIXELS;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#image, x, y, side, side, 0, 0, size, size);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const step = KEY_STEP * (event.shiftKey ? 10 : 1);
    const act = {
      ArrowLeft: () => this.#square.move(-step, 0),
      ArrowRight: () => this.#square.move(step, 0),
      ArrowUp: () => this.#square.move(0, -step),
      ArrowDown: () => this.#square.move(0, step),
      "+": () => this.#square.zoomTo(this.#square.zoom + ZOOM_STEP),
      "=": () => this.#square.zoomTo(this.#square.zoom + ZOOM_STEP),
      "-": () => this.#square.zoomTo(this.#square.zoom - ZOOM_STEP),
      Home: () => this.#square.reset(),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#change(act);
  }

  /** @param {WheelEvent} event */
  #onWheel(event) {
    // Otherwise the page scrolls, as one expects who only passes by.
    const isWanted = event.ctrlKey || document.activeElement === this.canvas;
    if (!isWanted || !this.#square) return;
    event.preventDefault();
    const part = Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY) / 400, 0.25);
    this.#change(() => this.#square.zoomTo(this.#square.zoom - part, this.#placeOf(event)));
  }

  /** @param {PointerEvent} event */
  #onDown(event) {
    if (!this.#square || event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#placeOf(event));
    this.canvas.classList.add("moving");
  }

  /** @param {PointerEvent} event */
  #onMove(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const place = this.#placeOf(event);
    const [other] = [...this.#pointers].filter(([id]) => id !== event.pointerId);
    this.#pointers.set(event.pointerId, place);
    this.#change(() => {
      if (other) this.#pinch(before, place, other[1]);
      else this.#square.move(before.x - place.x, before.y - place.y);
    });
  }

  /**
   * Zooms by what one of two fingers moved, around the other one.
   *
   * @param {{x: number, y: number}} before
   * @param {{x: number, y: number}} place
   * @param {{x: number, y: number}} other
   */
  #pinch(before, place, other) {
    const { smallest, largest, zoom } = this.#square;
    if (smallest === largest) return;
    const distances = [before, place].map(({ x, y }) => Math.hypot(x - other.x, y - other.y));
    const factor = distances[1] / Math.max(distances[0], 0.01);
    this.#square.zoomTo(zoom + Math.log(factor || 1) / Math.log(largest / smallest), other);
  }

  /** @param {PointerEvent} event */
  #onUp(event) {
    this.#pointers.delete(event.pointerId);
    if (!this.#pointers.size) this.canvas.classList.remove("moving");
  }

  /**
   * Returns where a pointer is, in parts of the square.
   *
   * @param {MouseEvent} event
   * @returns {{x: number, y: number}}
   */
  #placeOf(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return { x: (event.clientX - left) / width, y: (event.clientY - top) / height };
  }
}

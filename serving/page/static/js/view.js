/** The image as the model sees it, and which of its pixels are kept: rows, or a painted mask. */

import { Mask } from "./mask.js";
import { drawPixels, grayed } from "./pixels.js";

/** How much of a pixel that is not kept is gray: a trace of it helps to aim. */
const GRAYNESS = 0.86;

/**
 * Shows the pixels, and edits the mask.
 *
 * It uses the elements of the section "What the model sees".
 */
export class View {
  #pixels = null;
  #mask = new Mask(1);
  #rows = 0;
  #last = null;
  #cursor = { x: 0, y: 0 };

  /**
   * @param {HTMLElement} section
   * @param {() => void} onChange Called when other pixels are kept.
   */
  constructor(section, onChange) {
    const find = (name) => section.querySelector(name);
    this.section = section;
    this.onChange = onChange;
    this.canvas = find("#view");
    this.handle = find("#handle");
    this.cursor = find("#cursor");
    this.slider = find("#rows");
    this.output = find("#rows-text");
    this.brush = find("#brush");
    this.live = find("#view-live");
    this.slider.addEventListener("input", () => this.#setRows(+this.slider.value));
    section.addEventListener("change", (event) => {
      if (event.target.name === "mode") this.#onMode();
    });
    find("#keep-all").addEventListener("click", () => this.#edit((mask) => mask.known.fill(1)));
    find("#erase-all").addEventListener("click", () => this.#edit((mask) => mask.known.fill(0)));
    find("#invert").addEventListener("click", () =>
      this.#edit((mask) => mask.known.forEach((known, i) => (mask.known[i] = 1 - known))),
    );
    this.canvas.addEventListener("pointerdown", (event) => this.#onDown(event));
    this.canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    this.canvas.addEventListener("keydown", (event) => this.#onKey(event));
    for (const name of ["focus", "blur"]) {
      this.canvas.addEventListener(name, () => this.#placeCursor());
    }
    this.handle.addEventListener("pointerdown", (event) => {
      this.handle.setPointerCapture(event.pointerId);
    });
    this.handle.addEventListener("pointermove", (event) => {
      if (this.handle.hasPointerCapture(event.pointerId)) this.#dragRows(event);
    });
  }

  /** Whether a mask is painted. */
  get isPainted() {
    return this.section.querySelector("[name=mode]:checked").value === "brush";
  }

  /** The mask of the pixels that are kept. */
  get mask() {
    return this.isPainted ? this.#mask : Mask.ofRows(this.#mask.size, this.#rows);
  }

  /** The number of rows that are kept; null if a mask is painted. */
  get rows() {
    return this.isPainted ? null : this.#rows;
  }

  /**
   * Sets which pixels are kept.
   *
   * @param {number | null} size The side of the model's images; null if it has none.
   * @param {number | null} rows Null for half of them.
   * @param {string | null} painted As `Mask.encoded` returns it; null for rows.
   */
  set(size, rows, painted) {
    const before = this.#mask;
    const mask = painted && Mask.decoded(painted, size ?? 1);
    this.#mask = mask || before.resized(size ?? 1);
    this.#rows = Math.min(rows ?? Math.round(this.#mask.size / 2), this.#mask.size);
    if (before.size !== this.#mask.size) {
      this.#pixels = null;
      this.#cursor = { x: 0, y: 0 };
    }
    this.#choose(mask ? "brush" : "rows");
    this.#configure();
    this.#draw();
  }

  /**
   * Keeps the same part of the images of another model.
   *
   * @param {number | null} size
   */
  resize(size) {
    if (size === this.#mask.size) return;
    const rows = Math.round((this.#rows / this.#mask.size) * (size ?? 1));
    const painted = this.isPainted ? this.#mask.resized(size ?? 1).encoded() : null;
    this.set(size, rows, painted);
  }

  /**
   * Shows the image as a model sees it.
   *
   * @param {Uint8Array | null} rgb Null for nothing.
   */
  show(rgb) {
    this.#pixels = rgb;
    this.#draw();
  }

  /** @param {string} mode "rows" or "brush". */
  #choose(mode) {
    this.section.querySelector(`[name=mode][value=${mode}]`).checked = true;
    this.section.dataset.mode = mode;
  }

  /** Sets what depends on the size. */
  #configure() {
    const { size } = this.#mask;
    this.slider.max = String(size);
    this.slider.value = String(this.#rows);
    this.brush.max = String(Math.max(1, Math.round(size / 2)));
    if (!this.brush.dataset.size) this.brush.value = String(Math.max(1, Math.round(size / 8)));
    this.brush.dataset.size = String(size);
    this.canvas.width = this.canvas.height = size;
    this.section.style.setProperty("--size", String(size));
  }

  /** Continues with the rows as a mask, or with the rows that the mask keeps. */
  #onMode() {
    if (this.isPainted) this.#mask = Mask.ofRows(this.#mask.size, this.#rows);
    this.section.dataset.mode = this.isPainted ? "brush" : "rows";
    this.#draw();
    this.onChange();
  }

  /** @param {number} rows */
  #setRows(rows) {
    const within = Math.min(Math.max(rows, 0), this.#mask.size);
    if (within === this.#rows) return;
    this.#rows = within;
    this.slider.value = String(within);
    this.#draw();
    this.onChange();
  }

  /** @param {(mask: Mask) => void} act */
  #edit(act) {
    act(this.#mask);
    this.#draw();
    this.onChange();
  }

  /** Draws the pixels; those that are not kept are gray. */
  #draw() {
    const { size } = this.#mask;
    const rgb = this.#pixels ?? new Uint8Array(size * size * 3).fill(128);
    drawPixels(this.canvas, grayed(rgb, this.mask, GRAYNESS));
    this.section.style.setProperty("--rows", String(this.#rows));
    this.output.textContent = `${this.#rows} of ${size}`;
    this.#placeCursor();
  }

  /** @param {PointerEvent} event */
  #onDown(event) {
    if (event.button) return;
    if (this.isPainted) {
      this.canvas.setPointerCapture(event.pointerId);
      this.#last = this.#placeOf(event);
      this.#paint(this.#last, this.#last);
    } else if (event.pointerType !== "touch") {
      this.canvas.setPointerCapture(event.pointerId);
      this.#dragRows(event);
    }
  }

  /** @param {PointerEvent} event */
  #onMove(event) {
    if (!this.canvas.hasPointerCapture(event.pointerId)) return;
    if (!this.isPainted) {
      this.#dragRows(event);
      return;
    }
    const place = this.#placeOf(event);
    this.#paint(this.#last, place);
    this.#last = place;
  }

  /** @param {PointerEvent} event */
  #dragRows(event) {
    this.#setRows(Math.round(this.#placeOf(event).y));
  }

  /**
   * Paints with the brush.
   *
   * @param {{x: number, y: number}} from
   * @param {{x: number, y: number}} to
   */
  #paint(from, to) {
    const keeps = this.section.querySelector("[name=paint]:checked").value === "keep";
    this.#edit((mask) => mask.paint(from, to, +this.brush.value, keeps));
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const [right, down] = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, -1],
      ArrowDown: [0, 1],
    }[event.key] ?? [0, 0];
    if (!this.isPainted) {
      if (!down) return;
      event.preventDefault();
      this.#setRows(this.#rows + down);
      return;
    }
    const isSpace = event.key === " " || event.key === "Enter";
    if (!isSpace && !right && !down) return;
    event.preventDefault();
    const most = this.#mask.size - 1;
    const before = this.#cursor;
    this.#cursor = {
      x: Math.min(Math.max(before.x + right, 0), most),
      y: Math.min(Math.max(before.y + down, 0), most),
    };
    const middle = ({ x, y }) => ({ x: x + 0.5, y: y + 0.5 });
    if (isSpace || event.shiftKey) this.#paint(middle(before), middle(this.#cursor));
    this.#placeCursor();
    const { x, y } = this.#cursor;
    const isKept = this.#mask.known[y * this.#mask.size + x];
    this.live.textContent = `Row ${y + 1}, column ${x + 1}: ${isKept ? "kept" : "erased"}`;
  }

  /** Shows where the keyboard's brush is. */
  #placeCursor() {
    const isShown = this.isPainted && document.activeElement === this.canvas;
    this.cursor.hidden = !isShown;
    this.cursor.style.setProperty("--x", String(this.#cursor.x));
    this.cursor.style.setProperty("--y", String(this.#cursor.y));
  }

  /**
   * Returns where a pointer is, in pixels of the model.
   *
   * @param {PointerEvent} event
   * @returns {{x: number, y: number}}
   */
  #placeOf(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const { size } = this.#mask;
    return {
      x: ((event.clientX - left) / width) * size,
      y: ((event.clientY - top) / height) * size,
    };
  }
}

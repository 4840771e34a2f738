/** Which pixels of an image the model is given. */

/** A square of pixels, each of which is known or not. */
export class Mask {
  /**
   * @param {number} size Side in pixels.
   * @param {Uint8Array} [known] 1 where a pixel is known, row by row; none by default.
   */
  constructor(size, known = new Uint8Array(size * size)) {
    this.size = size;
    this.known = known;
  }

  /**
   * Returns a mask of which the first rows are known.
   *
   * @param {number} size
   * @param {number} rows
   * @returns {Mask}
   */
  static ofRows(size, rows) {
    return new Mask(size, new Uint8Array(size * size).fill(1, 0, rows * size));
  }

  /**
   * Reads what `encoded` returned.
   *
   * @param {string} text
   * @param {number} size
   * @returns {Mask | null} Null if the text is no mask of this size.
   */
  static decoded(text, size) {
    let bytes;
    try {
      bytes = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
    } catch {
      return null;
    }
    if (bytes.length !== Math.ceil((size * size) / 8)) return null;
    const mask = new Mask(size);
    for (let index = 0; index < size * size; index++) {
      mask.known[index] = (bytes.charCodeAt(index >> 3) >> (index & 7)) & 1;
    }
    return mask;
  }

  /**
   * Returns the mask as text for an address, eight pixels a byte.
   *
   * @returns {string}
   */
  encoded() {
    const bytes = new Uint8Array(Math.ceil(this.known.length / 8));
    this.known.forEach((known, index) => {
      bytes[index >> 3] |= known << (index & 7);
    });
    const text = btoa(String.fromCharCode(...bytes));
    return text.replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  }

  /** The number of known pixels. */
  get count() {
    return this.known.reduce((sum, known) => sum + known, 0);
  }

  /**
   * Returns the mask as rows of booleans.
   *
   * @returns {boolean[][]}
   */
  rows() {
    return Array.from({ length: this.size }, (_, row) =>
      Array.from(this.known.subarray(row * this.size, (row + 1) * this.size), Boolean),
    );
  }

  /**
   * Returns the number of a row's first pixel that is unknown, or the size if all are known.
   *
   * @returns {number}
   */
  firstUnknownRow() {
    const index = this.known.indexOf(0);
    return index < 0 ? this.size : Math.floor(index / this.size);
  }

  /**
   * Sets the pixels in a round brush on the way from one place to another.
   *
   * @param {{x: number, y: number}} from In pixels, from the upper left corner.
   * @param {{x: number, y: number}} to
   * @param {number} diameter Of the brush, in pixels.
   * @param {boolean} known
   */
  paint(from, to, diameter, known) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) * 2));
    for (let step = 0; step <= steps; step++) {
      const part = step / steps;
      this.#dab(from.x + (to.x - from.x) * part, from.y + (to.y - from.y) * part, diameter, known);
    }
  }

  /**
   * Sets the pixels whose centers lie in a circle, and the one around its center.
   *
   * @param {number} x
   * @param {number} y
   * @param {number} diameter
   * @param {boolean} known
   */
  #dab(x, y, diameter, known) {
    const radius = diameter / 2;
    const [left, right] = [x, x].map((at, i) => this.#inside(Math.floor(at + (i ? radius : -radius))));
    const [top, bottom] = [y, y].map((at, i) => this.#inside(Math.floor(at + (i ? radius : -radius))));
    for (let row = top; row <= bottom; row++) {
      for (let column = left; column <= right; column++) {
        const isCenter = column === Math.floor(x) && row === Math.floor(y);
        if (isCenter || Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius) {
          this.known[row * this.size + column] = Number(known);
        }
      }
    }
  }

  /**
   * Returns a row or column moved into the image.
   *
   * @param {number} index
   * @returns {number}
   */
  #inside(index) {
    return Math.min(Math.max(index, 0), this.size - 1);
  }

  /**
   * Returns the mask at another size, without blending.
   *
   * @param {number} size
   * @returns {Mask}
   */
  resized(size) {
    const mask = new Mask(size);
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        const [from, at] = [row, column].map((i) => Math.floor(((i + 0.5) * this.size) / size));
        mask.known[row * size + column] = this.known[from * this.size + at];
      }
    }
    return mask;
  }
}

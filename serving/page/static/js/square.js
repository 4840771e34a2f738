/** A square part of an image, as numbers. */

/** A square that stays inside an image; all numbers are whole pixels. */
export class Square {
  #left = 0;
  #top = 0;
  #side = 1;

  /**
   * @param {number} width Of the image.
   * @param {number} height
   * @param {number} smallest The side below which the square does not shrink, if the image allows.
   */
  constructor(width, height, smallest) {
    this.width = width;
    this.height = height;
    this.largest = Math.min(width, height);
    this.smallest = Math.min(smallest, this.largest);
    this.reset();
  }

  /** Takes the largest square, in the middle. */
  reset() {
    this.set((this.width - this.largest) / 2, (this.height - this.largest) / 2, this.largest);
  }

  /** Whether it is the largest square, in the middle. */
  get isWhole() {
    const whole = new Square(this.width, this.height, this.smallest);
    return this.x === whole.x && this.y === whole.y && this.side === whole.side;
  }

  /** The left edge. */
  get x() {
    return Math.round(this.#left);
  }

  /** The upper edge. */
  get y() {
    return Math.round(this.#top);
  }

  /** The length of an edge. */
  get side() {
    return Math.round(this.#side);
  }

  /**
   * Takes the nearest square that lies inside the image.
   *
   * @param {number} left
   * @param {number} top
   * @param {number} side
   */
  set(left, top, side) {
    const within = (value, least, most) => Math.min(Math.max(value, least), most);
    this.#side = within(side, this.smallest, this.largest);
    this.#left = within(left, 0, this.width - this.side);
    this.#top = within(top, 0, this.height - this.side);
  }

  /**
   * Moves by parts of the square's own side.
   *
   * @param {number} right
   * @param {number} down
   */
  move(right, down) {
    this.set(this.#left + right * this.#side, this.#top + down * this.#side, this.#side);
  }

  /** How far it is zoomed in, from 0 (the largest square) to 1; equal steps look equal. */
  get zoom() {
    if (this.smallest === this.largest) return 0;
    return Math.log(this.largest / this.#side) / Math.log(this.largest / this.smallest);
  }

  /**
   * Zooms around a point that stays where it is.
   *
   * @param {number} zoom 0…1.
   * @param {{x: number, y: number}} [around] In parts of the side; the middle by default.
   */
  zoomTo(zoom, around = { x: 0.5, y: 0.5 }) {
    const part = Math.min(Math.max(zoom, 0), 1);
    const side = this.largest * (this.smallest / this.largest) ** part;
    const lost = this.#side - side;
    this.set(this.#left + around.x * lost, this.#top + around.y * lost, side);
  }
}

/** The grid of completions, which fills row by row. */

import { drawHeat, drawScale } from "./heat.js";
import { drawPixels, grayed } from "./pixels.js";

/**
 * What a run was asked for.
 *
 * @typedef {object} Run
 * @property {string} model The model's name.
 * @property {number} size Side of the images in pixels.
 * @property {number} count How many completions.
 * @property {import("./mask.js").Mask} mask
 * @property {number} seed
 * @property {string} settings The settings in words.
 */

/**
 * One completion.
 *
 * @typedef {object} Completion
 * @property {number} number From 1.
 * @property {HTMLElement} tile
 * @property {HTMLCanvasElement} pixels
 * @property {HTMLCanvasElement} heat
 * @property {Float32Array} entropies NaN where nothing was drawn.
 * @property {string} score The log-likelihood in words; "" until it is known.
 */

/**
 * Returns a log-likelihood with one decimal and a minus sign.
 *
 * @param {number | null} value Null if it is not finite.
 * @returns {string}
 */
function inNats(value) {
  if (value === null) return "\u2212∞";
  const digits = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
  return value.toLocaleString("en", digits).replace("-", "\u2212");
}

/** Shows the original and its completions. */
export class Results {
  /** @type {Run | null} */
  run = null;
  /** @type {Completion[]} */
  completions = [];
  /** The original as the model sees it. */
  original = null;
  #largest = 0;

  /** @param {(index: number) => void} onOpen Called with a completion to enlarge. */
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.section = document.getElementById("results");
    this.grid = document.getElementById("grid");
    this.template = document.getElementById("tile");
    drawScale(document.getElementById("scale-colors"));
    const entropy = document.getElementById("entropy");
    entropy.addEventListener("change", () => {
      document.body.classList.toggle("with-entropy", entropy.checked);
      document.getElementById("scale").hidden = !entropy.checked;
    });
  }

  /**
   * Replaces the grid by completions of which nothing is drawn yet.
   *
   * @param {Run} run
   * @param {Uint8Array} rgb The original as the model sees it.
   */
  begin(run, rgb) {
    this.run = run;
    this.#largest = 0;
    this.grid.replaceChildren();
    this.original = this.#tile("Original", rgb).pixels;
    const known = grayed(rgb, run.mask);
    this.completions = Array.from({ length: run.count }, (_, index) => {
      const made = this.#tile(`${index + 1}`, known, () => this.onOpen(index));
      const entropies = new Float32Array(run.size ** 2).fill(NaN);
      return { number: index + 1, ...made, entropies, score: "" };
    });
    // Somewhat wider than high.
    const columns = Math.max(2, Math.round(Math.sqrt((run.count + 1) * 1.6)));
    this.grid.style.setProperty("--columns", String(columns));
    document.getElementById("results-about").textContent = `${run.model} · ${run.settings}`;
    for (const id of ["tools", "grid-note"]) document.getElementById(id).hidden = false;
    this.section.setAttribute("aria-busy", "true");
  }

  /**
   * Draws a row of all completions.
   *
   * @param {number} row From 0.
   * @param {Uint8Array} rgb The row of one completion after another.
   * @param {(number | null)[][]} entropies Of each completion's pixels, in nats.
   */
  addRow(row, rgb, entropies) {
    const { size, mask } = this.run;
    const isUnknown = (column) => !mask.known[row * size + column];
    this.completions.forEach((completion, index) => {
      const part = rgb.subarray(index * size * 3, (index + 1) * size * 3);
      drawPixels(completion.pixels, part, row);
      entropies[index].forEach((entropy, column) => {
        if (!isUnknown(column) || entropy === null) return;
        completion.entropies[row * size + column] = entropy;
        this.#largest = Math.max(this.#largest, entropy);
      });
    });
    this.completions.forEach(({ heat, entropies: of }) => drawHeat(heat, of, this.#largest));
    document.getElementById("scale-largest").textContent = this.#largest.toFixed(2);
  }

  /**
   * Shows how likely the completions are.
   *
   * @param {(number | null)[]} logLikelihoods In nats; null if one is not finite.
   * @param {(number | null)[]} bitsPerPixel
   */
  score(logLikelihoods, bitsPerPixel) {
    this.completions.forEach((completion, index) => {
      const nats = inNats(logLikelihoods[index]);
      const bits = bitsPerPixel[index]?.toFixed(2) ?? "∞";
      completion.score = `log-likelihood ${nats} nats, ${bits} bits per pixel`;
      completion.tile.querySelector(".score").textContent = `${nats} nats`;
      completion.tile.querySelector(".score").title = completion.score;
      this.#describe(completion);
    });
  }

  /** Ends a run, complete or not. */
  end() {
    this.section.removeAttribute("aria-busy");
  }

  /**
   * Returns a completion's place among all, for files.
   *
   * @param {number} index
   * @returns {string}
   */
  fileName(index) {
    const { model, seed } = this.run;
    return `${model.replace(/[^\w.-]+/g, "-")}-seed-${seed}-${index + 1}`;
  }

  /**
   * Adds a tile.
   *
   * @param {string} name
   * @param {Uint8Array} rgb
   * @param {() => void} [onClick] Without it the tile cannot be opened.
   * @returns {{tile: HTMLElement, pixels: HTMLCanvasElement, heat: HTMLCanvasElement}}
   */
  #tile(name, rgb, onClick) {
    const tile = this.template.content.firstElementChild.cloneNode(true);
    const [pixels, heat] = tile.querySelectorAll("canvas");
    const button = tile.querySelector("button");
    pixels.width = pixels.height = heat.width = heat.height = this.run.size;
    drawPixels(pixels, rgb);
    tile.querySelector(".name").textContent = name;
    if (onClick) {
      button.addEventListener("click", onClick);
      button.setAttribute("aria-label", `Enlarge completion ${name}`);
    } else {
      const frame = document.createElement("div");
      frame.className = button.className;
      pixels.removeAttribute("aria-hidden");
      pixels.setAttribute("role", "img");
      pixels.setAttribute("aria-label", "The original as the model sees it");
      frame.append(pixels);
      button.replaceWith(frame);
    }
    this.grid.append(tile);
    return { tile, pixels, heat };
  }

  /** @param {Completion} completion */
  #describe({ number, tile, score }) {
    tile
      .querySelector("button")
      .setAttribute("aria-label", `Enlarge completion ${number}, ${score}`);
  }
}

/** A dialog with one completion, large, and its files. */

import { download, enlarged } from "./pixels.js";

/** Enlarged files are about this wide and high. */
const LARGE = 512;

/** Shows one completion after another. */
export class Enlarged {
  #index = 0;

  /** @param {import("./results.js").Results} results */
  constructor(results) {
    const find = (id) => document.getElementById(id);
    this.results = results;
    this.dialog = find("enlarged");
    this.pixels = find("enlarged-pixels");
    this.heat = find("enlarged-heat");
    this.dialog.querySelector(".close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
    this.dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) this.#step(step);
    });
    find("previous").addEventListener("click", () => this.#step(-1));
    find("next").addEventListener("click", () => this.#step(1));
    find("download-small").addEventListener("click", () => this.#save(1));
    find("download-large").addEventListener("click", () => this.#save(this.#factor));
  }

  /**
   * Opens the dialog.
   *
   * @param {number} index Of the completion.
   */
  open(index) {
    this.#index = index;
    this.refresh();
    this.dialog.showModal();
  }

  /** Draws what the completion has become. */
  refresh() {
    const { run, completions } = this.results;
    const completion = completions[this.#index];
    if (!completion) {
      this.dialog.close();
      return;
    }
    for (const [canvas, source] of [
      [this.pixels, completion.pixels],
      [this.heat, completion.heat],
    ]) {
      canvas.width = canvas.height = run.size;
      canvas.getContext("2d").drawImage(source, 0, 0);
    }
    const title = `Completion ${completion.number} of ${run.count}`;
    document.getElementById("enlarged-title").textContent = title;
    this.pixels.setAttribute("aria-label", title);
    const about = [completion.score, run.settings].filter(Boolean).join(" · ");
    document.getElementById("enlarged-about").textContent = about;
    for (const [id, side] of [
      ["download-small", run.size],
      ["download-large", run.size * this.#factor],
    ]) {
      document.getElementById(id).textContent = `Download ${side} × ${side}`;
    }
    document.getElementById("previous").disabled = this.#index === 0;
    document.getElementById("next").disabled = this.#index === run.count - 1;
  }

  /** By how much a large file is enlarged. */
  get #factor() {
    return Math.max(2, Math.round(LARGE / this.results.run.size));
  }

  /** @param {number} step */
  #step(step) {
    const index = this.#index + step;
    if (!this.results.completions[index]) return;
    this.#index = index;
    this.refresh();
  }

  /** @param {number} factor */
  #save(factor) {
    const { pixels } = this.results.completions[this.#index];
    const side = pixels.width * factor;
    download(enlarged(pixels, factor), `${this.results.fileName(this.#index)}-${side}px.png`);
  }
}

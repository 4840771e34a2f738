/** Asks, a moment after the last change, how a model sees the image and which class it gives it. */

import { bytesOf } from "./pixels.js";
import { classify, stream } from "./server.js";

/** For how long nothing may change, in milliseconds. */
const DELAY = 150;

/** Keeps at most one question under way. */
export class Preview {
  #timer = 0;
  #ending = new AbortController();

  /**
   * @param {object} on
   * @param {(rgb: Uint8Array) => void} on.pixels Called with the image as the model sees it.
   * @param {(classes: {name: string, score: number}[]) => void} on.classes
   * @param {(error: Error, of: "pixels" | "classes") => void} on.error
   * @param {(busy: boolean) => void} on.busy
   */
  constructor(on) {
    this.on = on;
  }

  /**
   * Asks soon, and forgets what was asked before.
   *
   * @param {import("./server.js").Model} model
   * @param {import("./crop.js").Crop} crop
   */
  schedule(model, crop) {
    this.cancel();
    this.#ending = new AbortController();
    const { signal } = this.#ending;
    this.on.busy(true);
    this.#timer = setTimeout(() => this.#ask(model, crop, signal), DELAY);
  }

  /** Asks nothing, and wants no answer. */
  cancel() {
    clearTimeout(this.#timer);
    this.#ending.abort();
    this.on.busy(false);
  }

  /**
   * Asks for what the model offers.
   *
   * @param {import("./server.js").Model} model
   * @param {import("./crop.js").Crop} crop
   * @param {AbortSignal} signal
   */
  async #ask(model, crop, signal) {
    const ask = async (of, question) => {
      try {
        const answer = await question();
        if (!signal.aborted) this.on[of](answer);
      } catch (error) {
        if (!signal.aborted) this.on.error(error, of);
      }
    };
    const image = await crop.encoded();
    if (signal.aborted) return;
    if (model.streams) await ask("pixels", () => seen(model, image, signal));
    if (model.signatures.includes("classify_images")) {
      await ask("classes", () => classify(model, image, signal));
    }
    if (!signal.aborted) this.on.busy(false);
  }
}

/**
 * Returns an image as a model sees it.
 *
 * @param {import("./server.js").Model} model
 * @param {string} image An image file in base 64.
 * @param {AbortSignal} signal
 * @returns {Promise<Uint8Array>} Red, green and blue, row by row.
 */
async function seen(model, image, signal) {
  const body = { image: { b64: image }, keep_rows: 0, num_completions: 0 };
  let pixels = null;
  for await (const { event, data } of stream(model, body, signal)) {
    if (event === "start") pixels = bytesOf(data.pixels);
  }
  return pixels;
}

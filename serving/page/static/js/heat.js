/** Colors of entropies, as `igpt complete --entropy` draws them. */

import { newCanvas } from "./pixels.js";

/** The color map "inferno" (CC0), sampled evenly: equal steps of a value look equal. */
const INFERNO = [
  [0, 0, 4], [10, 7, 34], [30, 12, 69], [56, 9, 98], [81, 14, 108], [105, 22, 110],
  [128, 31, 108], [152, 39, 102], [176, 49, 91], [198, 61, 77], [217, 77, 61], [233, 97, 43],
  [244, 121, 24], [250, 148, 7], [252, 176, 20], [248, 205, 55], [242, 234, 105], [252, 255, 164],
];

/**
 * Returns the color of a value.
 *
 * @param {number} part 0…1.
 * @returns {number[]} Red, green and blue.
 */
export function heatColor(part) {
  const at = Math.min(Math.max(part, 0), 1) * (INFERNO.length - 1);
  const index = Math.min(Math.floor(at), INFERNO.length - 2);
  return INFERNO[index].map((low, channel) =>
    Math.round(low + (INFERNO[index + 1][channel] - low) * (at - index)),
  );
}

/**
 * Draws entropies; where there is none, the canvas stays transparent.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} entropies In nats, row by row; NaN where there is none.
 * @param {number} largest The entropy of the last color.
 */
export function drawHeat(canvas, entropies, largest) {
  const image = new ImageData(canvas.width, canvas.height);
  entropies.forEach((entropy, index) => {
    if (!Number.isNaN(entropy)) {
      image.data.set([...heatColor(entropy / Math.max(largest, 1e-6)), 255], index * 4);
    }
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/**
 * Draws all colors from left to right.
 *
 * @param {HTMLCanvasElement} canvas
 */
export function drawScale(canvas) {
  const scale = newCanvas(canvas.width, 1);
  const image = new ImageData(scale.width, 1);
  for (let x = 0; x < scale.width; x++) {
    image.data.set([...heatColor(x / (scale.width - 1)), 255], x * 4);
  }
  scale.getContext("2d").putImageData(image, 0, 0);
  canvas.getContext("2d").drawImage(scale, 0, 0, canvas.width, canvas.height);
}

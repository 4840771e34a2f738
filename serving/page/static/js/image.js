/** Reads image files as a person sees them. */

import { newCanvas } from "./pixels.js";

/** The longest side in pixels; larger images are reduced. */
export const MAX_SIDE = 2048;

/** A file is no image that this browser reads. */
export class Unreadable extends Error {}

/**
 * Reads an image: upright as EXIF says, over white, at most `MAX_SIDE` wide and high.
 *
 * @param {Blob} file
 * @returns {Promise<HTMLCanvasElement>}
 */
export async function readImage(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    return drawn(image, image.naturalWidth, image.naturalHeight);
  } catch (error) {
    if (error instanceof Unreadable) throw error;
    const name = file.name ? `“${file.name}”` : "This";
    throw new Unreadable(
      `${name} is not an image that this browser can read. JPEG, PNG, WebP, GIF and AVIF work.`,
    );
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/**
 * Draws an image or the frame of a video over white.
 *
 * @param {CanvasImageSource} image
 * @param {number} width Its width in pixels.
 * @param {number} height
 * @returns {HTMLCanvasElement}
 */
export function drawn(image, width, height) {
  if (!width || !height) throw new Unreadable("This image does not say how large it is.");
  const factor = Math.min(1, MAX_SIDE / Math.max(width, height));
  const canvas = newCanvas(
    Math.max(1, Math.round(width * factor)),
    Math.max(1, Math.round(height * factor)),
  );
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = factor < 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/**
 * Cuts a square out, pixel for pixel.
 *
 * @param {HTMLCanvasElement} image
 * @param {{x: number, y: number, side: number}} square In whole pixels.
 * @returns {HTMLCanvasElement}
 */
export function cut(image, { x, y, side }) {
  const canvas = newCanvas(side);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(image, x, y, side, side, 0, 0, side, side);
  return canvas;
}

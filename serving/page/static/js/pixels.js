/** Small images: base 64, canvases, files. */

/** The unknown part of an image. Fully opaque, so that what a canvas holds is exact. */
export const GRAY = [142, 142, 147];

/**
 * Returns the bytes of a text in base 64.
 *
 * @param {string} text
 * @returns {Uint8Array}
 */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

/**
 * Returns the content of a file in base 64.
 *
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
export function base64Of(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/**
 * Makes a canvas.
 *
 * @param {number} width
 * @param {number} [height] The width by default.
 * @returns {HTMLCanvasElement}
 */
export function newCanvas(width, height = width) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/**
 * Draws pixels.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Uint8Array} rgb Red, green and blue, row by row, as wide as the canvas.
 * @param {number} [top] The first row to draw at.
 */
export function drawPixels(canvas, rgb, top = 0) {
  const image = new ImageData(canvas.width, rgb.length / 3 / canvas.width);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    image.data.set([rgb[from], rgb[from + 1], rgb[from + 2], 255], to);
  }
  canvas.getContext("2d").putImageData(image, 0, top);
}

/**
 * Returns pixels of which the unknown ones are gray.
 *
 * @param {Uint8Array} rgb
 * @param {import("./mask.js").Mask} mask
 * @param {number} [opacity] How much of an unknown pixel is gray, 0…1.
 * @returns {Uint8Array}
 */
export function grayed(rgb, mask, opacity = 1) {
  return rgb.map((value, index) => {
    if (mask.known[Math.floor(index / 3)]) return value;
    return Math.round(value + (GRAY[index % 3] - value) * opacity);
  });
}

/**
 * Returns a canvas enlarged without smoothing.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {number} factor
 * @returns {HTMLCanvasElement}
 */
export function enlarged(canvas, factor) {
  const large = newCanvas(canvas.width * factor, canvas.height * factor);
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, 0, 0, large.width, large.height);
  return large;
}

/**
 * Returns a canvas as a PNG file.
 *
 * @param {HTMLCanvasElement} canvas
 * @returns {Promise<Blob>}
 */
export function toPng(canvas) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => {
      if (blob) resolve(blob);
      else reject(new Error("the browser has no memory for this picture"));
    });
  });
}

/**
 * Saves a canvas as a PNG in the folder for downloads.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {string} name Of the file.
 */
export async function download(canvas, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await toPng(canvas));
  link.download = name;
  link.click();
  // The browser has taken its own reference when the click returns, except on slow phones.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

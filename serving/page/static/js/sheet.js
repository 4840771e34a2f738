/** A contact sheet: the original, what was kept of it, and all completions in one picture. */

import { drawPixels, enlarged, GRAY, newCanvas } from "./pixels.js";

const COLUMNS = 6;
const CELL = 160;
const GAP = 16;
const CAPTION = 40;
const FONT = "system-ui, sans-serif";

/**
 * Draws a contact sheet.
 *
 * @param {import("./results.js").Results} results
 * @returns {HTMLCanvasElement}
 */
export function contactSheet({ run, original, completions }) {
  const cells = [
    { picture: original, lines: ["original"] },
    { picture: knownPart(original, run.mask), lines: ["kept"] },
    ...completions.map(({ pixels, number, score }) => ({
      picture: pixels,
      lines: [`completion ${number}`, score.replace("log-likelihood ", "").split(",")[0]],
    })),
  ];
  const factor = Math.max(1, Math.round(CELL / run.size));
  const cell = run.size * factor;
  const columns = Math.min(COLUMNS, cells.length);
  const top = GAP + 48;
  const sheet = newCanvas(
    GAP + columns * (cell + GAP),
    top + Math.ceil(cells.length / columns) * (cell + CAPTION + GAP),
  );
  const context = sheet.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  const write = (text, x, y, font, color, width) => {
    context.font = `${font} ${FONT}`;
    context.fillStyle = color;
    context.fillText(text, x, y, width);
  };
  write(run.model, GAP, GAP + 16, "600 17px", "#1c1c1e", sheet.width - 2 * GAP);
  write(run.settings, GAP, GAP + 36, "13px", "#55555c", sheet.width - 2 * GAP);
  cells.forEach(({ picture, lines }, index) => {
    const x = GAP + (index % columns) * (cell + GAP);
    const y = top + Math.floor(index / columns) * (cell + CAPTION + GAP);
    context.drawImage(enlarged(picture, factor), x, y);
    lines.forEach((line, i) => {
      write(line, x, y + cell + 17 + 17 * i, "13px", i ? "#55555c" : "#1c1c1e", cell);
    });
  });
  return sheet;
}

/**
 * Returns the part of an image that was kept, the rest gray.
 *
 * @param {HTMLCanvasElement} original
 * @param {import("./mask.js").Mask} mask
 * @returns {HTMLCanvasElement}
 */
function knownPart(original, mask) {
  const { data } = original.getContext("2d").getImageData(0, 0, mask.size, mask.size);
  const rgb = new Uint8Array(mask.size ** 2 * 3);
  for (let index = 0; index < rgb.length; index++) {
    const pixel = Math.floor(index / 3);
    rgb[index] = mask.known[pixel] ? data[pixel * 4 + (index % 3)] : GRAY[index % 3];
  }
  const canvas = newCanvas(mask.size);
  drawPixels(canvas, rgb);
  return canvas;
}

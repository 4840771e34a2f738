/** Where an image comes from: a file, the clipboard, the camera, or a sample. */

import { Camera } from "./camera.js";
import { readImage } from "./image.js";
import { OWN, SAMPLES } from "./settings.js";

/** Offers all ways to choose an image. */
export class Chooser {
  #count = 0;

  /**
   * @param {object} on
   * @param {(name: string, image: HTMLCanvasElement) => void} on.image Called with the name of a
   *   sample, or `OWN`, and the image.
   * @param {(message: string) => void} on.error Called with why there is no image.
   */
  constructor(on) {
    this.on = on;
    for (const id of ["file", "capture"]) {
      const input = document.getElementById(id);
      input.addEventListener("change", () => {
        if (input.files.length) this.#read(input.files[0]);
        input.value = "";
      });
    }
    this.#offerSamples();
    this.#offerCamera();
    this.#acceptPaste();
    this.#acceptDrop();
  }

  /**
   * Loads a sample.
   *
   * @param {string} name
   * @returns {Promise<HTMLCanvasElement | null>} Null if another image was chosen meanwhile.
   */
  async sample(name) {
    const count = ++this.#count;
    const response = await fetch(`page/samples/${SAMPLES[name].file}`);
    const image = await readImage(await response.blob());
    return count === this.#count ? image : null;
  }

  /** @param {Blob} file */
  async #read(file) {
    const count = ++this.#count;
    try {
      const image = await readImage(file);
      if (count === this.#count) this.on.image(OWN, image);
    } catch (error) {
      if (count === this.#count) this.on.error(error.message);
    }
  }

  /** Makes a button for each sample. */
  #offerSamples() {
    const group = document.getElementById("samples");
    for (const [name, { file, description }] of Object.entries(SAMPLES)) {
      const button = document.createElement("button");
      const picture = document.createElement("img");
      button.type = "button";
      button.dataset.sample = name;
      picture.src = `page/samples/${file}`;
      picture.alt = `Sample: ${description}`;
      button.append(picture);
      button.addEventListener("click", async () => {
        try {
          const image = await this.sample(name);
          if (image) this.on.image(name, image);
        } catch (error) {
          this.on.error(`The sample cannot be loaded: ${error.message}`);
        }
      });
      group.append(button);
    }
  }

  /** A phone's own camera takes better pictures than a page can; elsewhere the page takes them. */
  #offerCamera() {
    const button = document.getElementById("camera");
    const isPhone = matchMedia("(pointer: coarse)").matches;
    if (!isPhone && !navigator.mediaDevices) {
      button.hidden = true;
      return;
    }
    const camera = new Camera((image) => {
      this.#count++;
      this.on.image(OWN, image);
    });
    button.addEventListener("click", () => {
      if (isPhone) document.getElementById("capture").click();
      else camera.open();
    });
  }

  /** Takes an image from the clipboard. */
  #acceptPaste() {
    document.addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
      if (file) this.#read(file);
      else if (!isText(event.target)) this.on.error("There is no image in the clipboard.");
    });
  }

  /** Takes an image that is dropped anywhere. */
  #acceptDrop() {
    const { classList } = document.body;
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) classList.remove("dropping");
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      classList.remove("dropping");
      const [file] = event.dataTransfer.files;
      if (file) this.#read(file);
      else this.on.error("Only files can be dropped here; save the image first.");
    });
  }
}

/**
 * Returns whether text may be pasted into an element.
 *
 * @param {Element} element
 * @returns {boolean}
 */
function isText(element) {
  return element.matches("input, textarea");
}

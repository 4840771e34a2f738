/** A dialog that takes a picture with the camera of a computer. */

import { drawn } from "./image.js";

/** Why there is no picture, by the name of the browser's error. */
const REASONS = {
  NotAllowedError: "The browser does not let this page use a camera.",
  NotFoundError: "This computer has no camera.",
  NotReadableError: "Another program uses the camera.",
};

/** Shows what the camera sees while the dialog is open. */
export class Camera {
  #stream = null;

  /** @param {(image: HTMLCanvasElement) => void} onImage Called with a picture. */
  constructor(onImage) {
    this.dialog = document.getElementById("camera-dialog");
    this.video = document.getElementById("video");
    this.error = document.getElementById("camera-error");
    this.shoot = document.getElementById("shoot");
    this.shoot.addEventListener("click", () => {
      const image = drawn(this.video, this.video.videoWidth, this.video.videoHeight);
      this.dialog.close();
      onImage(image);
    });
    this.dialog.querySelector(".close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this.#end());
  }

  /** Opens the dialog and starts the camera. */
  async open() {
    this.error.textContent = "";
    this.shoot.disabled = true;
    this.dialog.showModal();
    try {
      const video = { width: { ideal: 1280 }, facingMode: "environment" };
      const stream = await navigator.mediaDevices.getUserMedia({ video });
      this.#stream = stream;
      if (!this.dialog.open) {
        this.#end();
        return;
      }
      this.video.srcObject = stream;
      await this.video.play();
      this.shoot.disabled = false;
      this.shoot.focus();
    } catch (error) {
      this.error.textContent = REASONS[error.name] ?? `There is no picture: ${error.message}`;
    }
  }

  /** Turns the camera off. */
  #end() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.video.srcObject = null;
  }
}

/** The fields of the form, and errors beside the controls that they concern. */

import { FIELDS, complaint } from "./settings.js";

/** The controls of what a server's error may begin with. */
const CONTROLS = {
  image: "image",
  keep_rows: "mask",
  known: "mask",
  num_completions: "num_completions",
  temperature: "temperature",
  top_k: "top_k",
  top_p: "top_p",
  seed: "seed",
  labels: "labels",
  guidance_scale: "guidance_scale",
};
/** The element that gets the focus, where a control is not named as its error. */
const FOCUSED = { image: "file", mask: "rows" };

/** Reads, writes and checks the numbers. */
export class Form {
  /** @param {() => void} onChange Called when a field holds another valid number. */
  constructor(onChange) {
    for (const name of Object.keys(FIELDS)) {
      const input = document.getElementById(name);
      input.addEventListener("input", () => this.clear(name));
      input.addEventListener("change", () => {
        this.#check(name);
        onChange();
      });
    }
    document.getElementById("new-seed").addEventListener("click", () => {
      this.newSeed();
      onChange();
    });
  }

  /** The numbers by the names of the fields; those that are not valid are as at first. */
  get values() {
    const pairs = Object.entries(FIELDS).map(([name, { initial }]) => {
      const { valueAsNumber } = document.getElementById(name);
      return [name, complaint(name, valueAsNumber) ? initial : valueAsNumber];
    });
    return Object.fromEntries(pairs);
  }

  /**
   * Writes numbers into the fields.
   *
   * @param {Record<string, number>} values
   */
  set(values) {
    for (const name of Object.keys(FIELDS)) {
      document.getElementById(name).value = String(values[name]);
      this.clear(name);
    }
  }

  /** Draws a seed. */
  newSeed() {
    const [number] = crypto.getRandomValues(new Uint32Array(1));
    document.getElementById("seed").value = String(number % 1_000_000);
    this.clear("seed");
  }

  /**
   * Checks all fields, and goes to the first that cannot be used.
   *
   * @returns {boolean} Whether all can be used.
   */
  isValid() {
    const wrong = Object.keys(FIELDS).filter((name) => !this.#check(name));
    if (wrong.length) this.goTo(wrong[0]);
    return !wrong.length;
  }

  /**
   * Shows the server's error beside the control that it is about.
   *
   * @param {string} message
   * @returns {boolean} Whether there is such a control.
   */
  showRefusal(message) {
    const [argument] = /^\w+/.exec(message) ?? [];
    const name = Object.hasOwn(CONTROLS, argument ?? "") && CONTROLS[argument];
    if (!name) return false;
    this.show(name, message);
    this.goTo(name);
    return true;
  }

  /**
   * Shows an error.
   *
   * @param {string} name Of the control.
   * @param {string} message
   */
  show(name, message) {
    this.#write(name, message);
  }

  /** @param {string} name Of the control that gets the focus. */
  goTo(name) {
    document.getElementById(FOCUSED[name] ?? name).focus();
  }

  /** @param {string} name Of the control whose error is no longer one. */
  clear(name) {
    this.#write(name, "");
  }

  /** Removes all errors. */
  clearAll() {
    new Set(Object.values(CONTROLS)).forEach((name) => this.clear(name));
  }

  /**
   * @param {string} name
   * @returns {boolean}
   */
  #check(name) {
    const message = complaint(name, document.getElementById(name).valueAsNumber);
    this.#write(name, message);
    return !message;
  }

  /**
   * @param {string} name
   * @param {string} message
   */
  #write(name, message) {
    document.getElementById(`${name}-error`).textContent = message;
    const control = document.getElementById(FOCUSED[name] ?? name);
    if (message) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  }
}

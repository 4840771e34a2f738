/** The class that a class-conditional model draws, and how much it counts. */

import { GUIDANCE } from "./settings.js";

const find = (id) => document.getElementById(id);

/** The menu of classes and the slider of the guidance, for models that have classes. */
export class Condition {
  /** @type {string[]} */
  #names = [];
  /** The name of the class that was chosen, which another model may not have; null for any. */
  #wanted = null;

  /** @param {() => void} onChange Called when another class or guidance is chosen. */
  constructor(onChange) {
    Object.assign(find("guidance_scale"), GUIDANCE);
    find("labels").addEventListener("change", () => {
      this.#wanted = this.#names[this.#label] ?? null;
      this.#show();
      onChange();
    });
    find("guidance_scale").addEventListener("input", () => {
      this.#show();
      onChange();
    });
  }

  /**
   * Offers the classes of a model.
   *
   * @param {string[]} names None for a model without classes.
   */
  offer(names) {
    this.#names = names;
    const options = names.map((name, index) => new Option(name, String(index)));
    find("labels").replaceChildren(new Option("Any", ""), ...options);
    const label = names.indexOf(this.#wanted);
    find("labels").value = label < 0 ? "" : String(label);
    find("condition").hidden = !names.length;
    this.#show();
  }

  /**
   * Chooses what an address says.
   *
   * @param {import("./settings.js").Settings} settings
   */
  set({ class: name, guidance_scale: scale }) {
    this.#wanted = name;
    find("guidance_scale").value = String(scale ?? GUIDANCE.value);
    this.offer(this.#names);
  }

  /** The arguments of a request. */
  get values() {
    const label = this.#label;
    return label === null ? {} : { labels: label, guidance_scale: this.#scale };
  }

  /** What an address holds. */
  get settings() {
    const label = this.#label;
    return label === null ? {} : { class: this.#names[label], guidance_scale: this.#scale };
  }

  /** The choice in words, in parts. */
  get words() {
    const label = this.#label;
    if (label === null) return [];
    const scale = this.#scale;
    return [this.#names[label], ...(scale === 1 ? [] : [`guidance ${scale}`])];
  }

  /** @returns {number | null} */
  get #label() {
    const { value } = find("labels");
    return value === "" ? null : Number(value);
  }

  /** @returns {number} */
  get #scale() {
    return find("guidance_scale").valueAsNumber;
  }

  #show() {
    find("guidance_scale").disabled = this.#label === null;
    find("guidance_scale-text").textContent = String(this.#scale);
  }
}

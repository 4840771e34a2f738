/** The settings of the form, and how the address holds them. */

/** The fields with numbers: their limits and what they are at first. */
export const FIELDS = {
  num_completions: { label: "Completions", min: 1, max: 16, initial: 4, integer: true },
  temperature: { label: "Temperature", min: 0, max: 100, initial: 1 },
  top_k: { label: "Top-k", min: 0, max: 1_000_000, initial: 0, integer: true },
  top_p: { label: "Top-p", min: 0, max: 1, initial: 1, open: true },
  seed: { label: "Seed", min: 0, max: 2 ** 31 - 1, initial: 0, integer: true },
};

/** The slider of the guidance scale. */
export const GUIDANCE = { min: 0, max: 8, step: 0.25, value: 1 };

/** The images that come with the page. */
export const SAMPLES = {
  temple: { file: "temple.jpg", description: "a temple in front of trees" },
  flower: { file: "flower.jpg", description: "a dahlia" },
  digit: { file: "digit.png", description: "a handwritten three" },
};

/** The name of an image of the user's own, which is no part of an address. */
export const OWN = "own";

/**
 * @typedef {object} Settings
 * @property {string} image The name of a sample, or `OWN`.
 * @property {number[] | null} crop Left, top and side in pixels; null for the middle.
 * @property {string | null} model A model's name; null for the first one.
 * @property {string | null} label The label of a version.
 * @property {number | null} rows How many rows are kept; null for half of them.
 * @property {string | null} mask The painted mask, as `Mask.encoded` returns it.
 * @property {number} num_completions
 * @property {number} temperature
 * @property {number} top_k
 * @property {number} top_p
 * @property {number} seed
 * @property {string | null} class The name of the class to draw; null for any.
 * @property {number | null} guidance_scale How much the class counts; null for as much as it does.
 */

/**
 * Says what is wrong with a number.
 *
 * @param {string} name Of a field.
 * @param {number} value
 * @returns {string} A sentence, or "".
 */
export function complaint(name, value) {
  const { label, min, max, integer, open } = FIELDS[name];
  const isAbove = open ? value > min : value >= min;
  if (isAbove && value <= max && (!integer || Number.isInteger(value))) return "";
  const kind = integer ? "a whole number" : "a number";
  const least = open ? `above ${min}, at most` : `from ${min} to`;
  return `${label} must be ${kind} ${least} ${max.toLocaleString("en")}.`;
}

/**
 * Reads the settings of an address; what it lacks, or cannot hold, is as at first.
 *
 * @param {string} fragment The part from "#" on.
 * @returns {Settings}
 */
export function readFragment(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const settings = {
    image: given.get("image"),
    crop: null,
    model: given.get("model"),
    label: given.get("label"),
    rows: null,
    mask: given.get("mask"),
    class: given.get("class"),
    guidance_scale: null,
  };
  if (settings.image !== OWN && !Object.hasOwn(SAMPLES, settings.image ?? "")) {
    [settings.image] = Object.keys(SAMPLES);
  }
  const crop = (given.get("crop") ?? "").split(",").map(Number);
  if (crop.length === 3 && crop.every(Number.isInteger)) settings.crop = crop;
  if (/^\d{1,5}$/.test(given.get("rows") ?? "")) settings.rows = Number(given.get("rows"));
  const scale = Number(given.get("guidance_scale") ?? NaN);
  if (scale >= GUIDANCE.min && scale <= GUIDANCE.max) settings.guidance_scale = scale;
  for (const [name, { initial }] of Object.entries(FIELDS)) {
    const value = Number(given.get(name) ?? NaN);
    settings[name] = complaint(name, value) ? initial : value;
  }
  return settings;
}

/**
 * Returns the part of an address that holds settings.
 *
 * @param {Settings} settings
 * @returns {string} It begins with "#".
 */
export function writeFragment(settings) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(settings)) {
    if (value !== null && value !== undefined) given.set(name, String(value));
  }
  return `#${given.toString().replace(/%2C/g, ",")}`;
}

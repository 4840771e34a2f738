/** What the page asks the server: models, completions row by row, classes. */

import { readEvents } from "./events.js";

/**
 * A served version of a model.
 *
 * @typedef {object} Model
 * @property {string} name
 * @property {number} version
 * @property {string[]} labels
 * @property {string[]} signatures
 * @property {boolean} streams Whether it completes images row by row.
 * @property {number | null} image_size Side of its images in pixels.
 * @property {string} description
 * @property {string[]} class_names The classes that it tells apart.
 * @property {string[]} label_names The classes that it draws images of.
 */

/** The server's answer that a request cannot be granted. */
export class Refused extends Error {
  /**
   * @param {string} message The server's reason.
   * @param {number | string} code An HTTP status, or gRPC's name of one.
   */
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** The server did not answer, or stopped in the middle of an answer. */
export class Unreachable extends Error {}

/**
 * Asks for the models.
 *
 * @returns {Promise<Model[]>}
 */
export async function listModels() {
  return (await readJson(await request("v1/models"))).models;
}

/**
 * Completes an image, and yields what the server sends: "start", "row" for each row, "done".
 *
 * @param {Model} model
 * @param {object} body The request, as `docs/page.md` describes it.
 * @param {AbortSignal} signal Ends the request, and the server's work.
 * @yields {import("./events.js").ServerEvent}
 */
export async function* stream(model, body, signal) {
  const response = await request(`${pathOf(model)}:stream`, post(body, signal));
  let last = "";
  try {
    for await (const event of readEvents(response.body)) {
      last = event.event;
      if (last === "error") throw new Refused(event.data.error, event.data.code);
      yield event;
    }
  } catch (error) {
    throw error instanceof TypeError ? new Unreachable(error.message) : error;
  }
  const ends = body.num_completions ? "done" : "start";
  if (last !== ends && !signal.aborted) throw new Unreachable("the answer ended early");
}

/**
 * Asks for the classes of an image.
 *
 * @param {Model} model A model with the signature `classify_images`.
 * @param {string} image An image file in base 64.
 * @param {AbortSignal} signal
 * @returns {Promise<{name: string, score: number}[]>} The most probable class first.
 */
export async function classify(model, image, signal) {
  const body = {
    signature_name: "classify_images",
    instances: [{ image_bytes: { b64: image } }],
  };
  const response = await request(`${pathOf(model)}:predict`, post(body, signal));
  const { classes, scores } = (await readJson(response)).predictions[0];
  return classes
    .map((name, index) => ({ name, score: scores[index] }))
    .sort((a, b) => b.score - a.score);
}

/**
 * Returns the path of a model's version below the page's address.
 *
 * @param {Model} model
 * @returns {string}
 */
function pathOf(model) {
  return `v1/models/${encodeURIComponent(model.name)}/versions/${model.version}`;
}

/**
 * Returns the options of a request that sends JSON.
 *
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {RequestInit}
 */
function post(body, signal) {
  const headers = { "Content-Type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(body), signal };
}

/**
 * Sends a request.
 *
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>} An answer with a status of success.
 */
async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (error) {
    throw error instanceof TypeError ? new Unreachable(error.message) : error;
  }
  if (!response.ok) throw new Refused(await reason(response), response.status);
  return response;
}

/**
 * Reads the JSON of an answer.
 *
 * @param {Response} response
 * @returns {Promise<any>}
 */
async function readJson(response) {
  try {
    return await response.json();
  } catch (error) {
    throw error instanceof TypeError ? new Unreachable(error.message) : error;
  }
}

/**
 * Returns why a request was refused.
 *
 * @param {Response} response
 * @returns {Promise<string>}
 */
async function reason(response) {
  const text = await response.text().catch(() => "");
  try {
    return JSON.parse(text).error;
  } catch {
    return `the server answered ${response.status} ${response.statusText}`.trim();
  }
}

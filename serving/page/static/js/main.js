/** The page: connects the form, the server and the results. */

import { Chooser } from "./chooser.js";
import { showClasses, showClassesError } from "./classes.js";
import { Condition } from "./condition.js";
import { Crop } from "./crop.js";
import { Enlarged } from "./enlarge.js";
import { Form } from "./form.js";
import { describe, indexOfModel, offerModels } from "./models.js";
import { bytesOf, download } from "./pixels.js";
import { Preview } from "./preview.js";
import { Progress } from "./progress.js";
import { Results } from "./results.js";
import { listModels, Refused, stream, Unreachable } from "./server.js";
import { OWN, readFragment, writeFragment } from "./settings.js";
import { contactSheet } from "./sheet.js";
import { View } from "./view.js";

/** How long to wait before the server is asked again, in milliseconds. */
const RETRY = 1500;

const find = (id) => document.getElementById(id);
const form = new Form(onNumbers);
const condition = new Condition(onCondition);
const crop = new Crop(find("crop"), find("zoom"), onCrop);
const view = new View(find("view-section"), onMask);
const chooser = new Chooser({ image: onImage, error: (message) => form.show("image", message) });
const progress = new Progress();
const results = new Results((index) => enlarged.open(index));
const enlarged = new Enlarged(results);
const preview = new Preview({
  pixels: (rgb) => view.show(rgb),
  classes: showClasses,
  error: onPreviewError,
  busy: (isBusy) => find("view-square").classList.toggle("busy", isBusy),
});

/** @type {import("./server.js").Model[]} */
let models = [];
/** The name of the image that is shown; null before there is one. */
let imageName = null;
/** The user's own image, which no address holds. */
let ownImage = null;
/** Ends the run under way. */
let ending = null;
/** Whether the page waits for the server to come back. */
let isWaiting = false;

start();

/** Reads the address, asks for the models and shows everything. */
async function start() {
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    complete();
  });
  find("stop").addEventListener("click", () => ending?.abort());
  find("again").addEventListener("click", () => {
    form.newSeed();
    complete();
  });
  find("keep-seed").addEventListener("click", () => {
    form.set({ ...form.values, seed: results.run.seed });
    onNumbers();
  });
  find("sheet").addEventListener("click", () => {
    const { model, seed } = results.run;
    download(contactSheet(results), `${model.replace(/[^\w.-]+/g, "-")}-seed-${seed}.png`);
  });
  find("model").addEventListener("change", () => onModel());
  addEventListener("popstate", () => apply(readFragment(location.hash)));
  await connect();
}

/** Asks for the models, again and again until the server answers, and applies the address. */
async function connect() {
  try {
    models = await listModels();
  } catch (error) {
    if (!(error instanceof Unreachable || error instanceof Refused)) throw error;
    await waitForServer();
    return;
  }
  offerModels(find("model"), models);
  find("complete").disabled = true;
  if (!models.length) {
    find("model-error").textContent = "The server has no model that is ready yet.";
    setTimeout(connect, RETRY);
    return;
  }
  find("model-error").textContent = "";
  await apply(readFragment(location.hash));
}

/** Says that the server is gone, and comes back when it is. */
async function waitForServer() {
  if (isWaiting) return;
  isWaiting = true;
  const banner = find("offline");
  banner.hidden = false;
  banner.textContent =
    "The server does not answer; it may have been stopped. This page goes on when it is back.";
  find("complete").disabled = true;
  preview.cancel();
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, RETRY));
    try {
      await listModels();
      break;
    } catch (error) {
      if (!(error instanceof Unreachable || error instanceof Refused)) throw error;
    }
  }
  isWaiting = false;
  banner.hidden = true;
  banner.textContent = "";
  if (results.run) progress.say("The server is back.");
  await connect();
}

/** The model that is chosen. */
function chosen() {
  return models[Number(find("model").value)];
}

/**
 * Shows settings.
 *
 * @param {import("./settings.js").Settings} settings
 */
async function apply(settings) {
  form.clearAll();
  form.set(settings);
  find("model").value = String(indexOfModel(models, settings.model, settings.label));
  const { image_size: size, label_names: labelNames } = chosen();
  condition.offer(labelNames);
  condition.set(settings);
  view.set(size, settings.rows, settings.mask);
  if (settings.image === OWN) {
    imageName = OWN;
    crop.show(ownImage, settings.crop);
    if (!ownImage) form.show("image", "An address does not hold your image. Choose it again.");
  } else if (settings.image !== imageName || !crop.hasImage) {
    try {
      const image = await chooser.sample(settings.image);
      if (!image) return;
      imageName = settings.image;
      crop.show(image, settings.crop);
    } catch (error) {
      form.show("image", `The sample cannot be loaded: ${error.message}`);
    }
  } else {
    crop.show(crop.image, settings.crop);
  }
  showModel();
  remember();
}

/**
 * Puts the settings into the address.
 *
 * The back button returns to other images and models, and to what was completed.
 *
 * @param {"step" | "completed" | ""} [why] Why the settings are to be found again.
 */
function remember(why = "") {
  const { name, labels } = chosen();
  const fragment = writeFragment({
    image: imageName,
    crop: crop.isWhole ? null : crop.values,
    model: name,
    label: labels[0] ?? null,
    rows: view.rows,
    mask: view.isPainted ? view.mask.encoded() : null,
    ...form.values,
    ...condition.settings,
  });
  const isNew = fragment !== location.hash;
  if (isNew && (why === "step" || history.state?.isCompleted)) history.pushState(null, "", fragment);
  else if (isNew) history.replaceState(null, "", fragment);
  if (why === "completed") history.replaceState({ isCompleted: true }, "", fragment);
}

/** Shows what the model is and can do, and asks how it sees the image. */
function showModel() {
  const model = chosen();
  const { image_size: size, streams } = model;
  find("model-about").textContent = describe(model);
  find("view-size").textContent = size && streams ? `${size} × ${size}` : "";
  find("view-section").classList.toggle("off", !streams);
  find("view-empty").hidden = streams;
  find("view-empty").textContent = streams ? "" : "This model completes no images.";
  results.section.hidden = !streams && !results.run;
  showClasses(model.signatures.includes("classify_images") ? [] : null);
  for (const button of find("samples").children) {
    button.setAttribute("aria-pressed", String(button.dataset.sample === imageName));
  }
  find("image-empty").hidden = crop.hasImage;
  find("complete").disabled = !streams || !crop.hasImage || isWaiting;
  if (crop.hasImage && !isWaiting) preview.schedule(model, crop);
}

/**
 * Takes another image.
 *
 * @param {string} name
 * @param {HTMLCanvasElement} image
 */
function onImage(name, image) {
  if (name === OWN) ownImage = image;
  imageName = name;
  crop.show(image);
  form.clear("image");
  view.show(null);
  if (!models.length) return;
  showModel();
  remember("step");
}

/** Takes another model. */
function onModel() {
  condition.offer(chosen().label_names);
  view.resize(chosen().image_size);
  view.show(null);
  showModel();
  remember("step");
}

/** The crop has changed. */
function onCrop() {
  if (!models.length) return;
  remember();
  if (!isWaiting) preview.schedule(chosen(), crop);
}

/** Other pixels are kept. */
function onMask() {
  form.clear("mask");
  if (models.length) remember();
}

/** Another class is to be drawn, or counts otherwise. */
function onCondition() {
  form.clear("labels");
  form.clear("guidance_scale");
  if (models.length) remember();
}

/** A number has changed. */
function onNumbers() {
  if (models.length) remember();
  showSeed();
}

/** Offers the seed of the results, if the form has another one. */
function showSeed() {
  const { run } = results;
  find("keep-seed").hidden = !run || run.seed === form.values.seed;
  find("keep-seed").textContent = run ? `Keep seed ${run.seed}` : "";
}

/**
 * Shows why there is no preview.
 *
 * @param {Error} error
 * @param {string} of "pixels" or "classes".
 */
function onPreviewError(error, of) {
  if (error instanceof Unreachable) waitForServer();
  else if (error.code === 404) connect();
  else if (of === "classes") showClassesError(error.message);
  else form.show("image", error.message);
}

/** Completes the image as the form says. */
async function complete() {
  if (ending || find("complete").disabled || !form.isValid()) return;
  const model = chosen();
  const { mask } = view;
  if (mask.count === mask.known.length) {
    form.show("mask", "Every pixel is kept; there is nothing to complete.");
    form.goTo("mask");
    return;
  }
  form.clearAll();
  remember("completed");
  preview.cancel();
  ending = new AbortController();
  setRunning(true);
  progress.begin();
  try {
    const kept = view.isPainted ? { known: mask.rows() } : { keep_rows: view.rows };
    const image = { b64: await crop.encoded() };
    const body = { image, ...kept, ...form.values, ...condition.values };
    await follow(model, mask, body, ending.signal);
  } catch (error) {
    onRunError(error);
  }
  ending = null;
  results.end();
  progress.end();
  setRunning(false);
  showSeed();
}

/**
 * Asks for completions, and draws what comes.
 *
 * @param {import("./server.js").Model} model
 * @param {import("./mask.js").Mask} mask
 * @param {object} body The request.
 * @param {AbortSignal} signal
 */
async function follow(model, mask, body, signal) {
  const { name, image_size: size } = model;
  const { seed, num_completions: count } = body;
  const run = { model: name, size, count, mask, seed, settings: inWords(body, mask) };
  for await (const { event, data } of stream(model, body, signal)) {
    if (event === "start") {
      const rgb = bytesOf(data.pixels);
      view.show(rgb);
      results.begin(run, rgb);
      progress.expect(mask.firstUnknownRow(), size);
      bringIntoView(results.section);
    } else if (event === "row") {
      results.addRow(data.row, bytesOf(data.pixels), data.entropies);
      progress.rowDone(data.row);
    } else if (event === "done") {
      results.score(data.log_likelihood, data.bits_per_pixel);
      progress.complete(count === 1 ? "The completion is ready." : `${count} completions are ready.`);
    }
    if (enlarged.dialog.open) enlarged.refresh();
  }
}

/**
 * Says why a run ended early.
 *
 * @param {Error} error
 */
function onRunError(error) {
  if (error.name === "AbortError") {
    progress.say("Stopped.");
  } else if (error instanceof Unreachable) {
    progress.say("The server stopped in the middle. What it had drawn is below.", true);
    waitForServer();
  } else if (!(error instanceof Refused)) {
    progress.say(`Something went wrong: ${error.message}`, true);
    throw error;
  } else if (!form.showRefusal(error.message)) {
    progress.say(`The server refused: ${error.message}`, true);
    if (error.code === 404) connect();
  }
}

/**
 * Shows the button that is of use, and moves the focus there if the other one had it.
 *
 * @param {boolean} isRunning
 */
function setRunning(isRunning) {
  const [shown, hidden] = isRunning ? ["stop", "complete"] : ["complete", "stop"];
  const hadFocus = document.activeElement === find(hidden);
  find(shown).hidden = false;
  find(hidden).hidden = true;
  find("again").disabled = isRunning;
  if (hadFocus) find(shown).focus();
}

/**
 * Returns the settings of a run in words.
 *
 * @param {object} body The request.
 * @param {import("./mask.js").Mask} mask
 * @returns {string}
 */
function inWords(body, mask) {
  const kept = body.known
    ? `${mask.count} of ${mask.known.length} pixels kept`
    : `${body.keep_rows} of ${mask.size} rows kept`;
  const parts = [...condition.words, kept, `temperature ${body.temperature}`];
  if (body.top_k) parts.push(`top-k ${body.top_k}`);
  if (body.top_p < 1) parts.push(`top-p ${body.top_p}`);
  return [...parts, `seed ${body.seed}`].join(" · ");
}

/**
 * Scrolls to an element whose beginning is not visible.
 *
 * @param {Element} element
 */
function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (top >= 0 && top < innerHeight * 0.6) return;
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ behavior: isCalm ? "auto" : "smooth", block: "start" });
}

/** The choice of a model. */

/**
 * Offers models.
 *
 * @param {HTMLSelectElement} select
 * @param {import("./server.js").Model[]} models
 */
export function offerModels(select, models) {
  const names = models.map(({ name }) => name);
  const options = models.map((model, index) => {
    const { name, version, labels, image_size: size } = model;
    const isOneOfSeveral = names.indexOf(name) !== names.lastIndexOf(name);
    const parts = [name];
    if (isOneOfSeveral || labels.length) {
      parts.push(`version ${version}${labels.length ? ` (${labels.join(", ")})` : ""}`);
    }
    if (size) parts.push(`${size} × ${size}`);
    return new Option(parts.join(" · "), String(index));
  });
  select.replaceChildren(...options);
}

/**
 * Finds a model.
 *
 * @param {import("./server.js").Model[]} models
 * @param {string | null} name
 * @param {string | null} label
 * @returns {number} The first one that completes images, if there is none of that name.
 */
export function indexOfModel(models, name, label) {
  const named = (model) => model.name === name;
  const exact = models.findIndex((model) => named(model) && label && model.labels.includes(label));
  const found = [exact, models.findIndex(named), models.findIndex(({ streams }) => streams), 0];
  return found.find((index) => index >= 0);
}

/**
 * Says what a model is, and why it completes nothing if it does not.
 *
 * @param {import("./server.js").Model} model
 * @returns {string}
 */
export function describe(model) {
  const { description, streams, signatures } = model;
  const about = description ? [`${description[0].toUpperCase()}${description.slice(1)}.`] : [];
  const classifies = signatures.includes("classify_images");
  if (!streams && classifies) about.push("It classifies images and cannot complete any.");
  if (!streams && !classifies) {
    about.push(
      "It cannot complete images: that takes an autoregressive model exported by this version of " +
        `igpt export. What it offers to programs: ${signatures.join(", ") || "nothing"}.`,
    );
  }
  return about.join(" ");
}

/** Bars of the most probable classes. */

/** More classes are not shown. */
const SHOWN = 5;

/**
 * Shows classes, or nothing.
 *
 * @param {{name: string, score: number}[] | null} classes The most probable first.
 */
export function showClasses(classes) {
  document.getElementById("classes-error").textContent = "";
  document.getElementById("classes").hidden = classes === null;
  const bars = (classes ?? []).slice(0, SHOWN).map(({ name, score }) => {
    const item = document.createElement("li");
    const [label, bar, value] = ["span", "span", "span"].map((tag) => document.createElement(tag));
    label.className = "label";
    label.textContent = label.title = name;
    bar.className = "bar";
    bar.style.setProperty("--score", String(score));
    value.className = "value";
    value.textContent = `${(score * 100).toFixed(1)}%`;
    item.append(label, bar, value);
    return item;
  });
  document.getElementById("bars").replaceChildren(...bars);
}

/**
 * Says why there are no classes.
 *
 * @param {string} message
 */
export function showClassesError(message) {
  showClasses([]);
  document.getElementById("classes-error").textContent = message;
}

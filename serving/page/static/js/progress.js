/** How far a run is, for eyes and for screen readers. */

/** Shows rows as they come, and says every quarter. */
export class Progress {
  #start = 0;
  #first = 0;
  #quarter = 0;

  constructor() {
    this.running = document.getElementById("running");
    this.bar = document.getElementById("progress");
    this.text = document.getElementById("progress-text");
    this.live = document.getElementById("live");
    this.status = document.getElementById("status");
  }

  /** Begins, before the server has answered. */
  begin() {
    this.running.hidden = false;
    this.bar.removeAttribute("value");
    this.text.textContent = "Asking the server …";
    this.live.textContent = "";
    this.say("");
    this.#quarter = 0;
  }

  /**
   * Shows that rows are to come.
   *
   * @param {number} first The first row to be drawn.
   * @param {number} size The number of rows.
   */
  expect(first, size) {
    this.#first = first;
    this.#start = performance.now();
    this.bar.max = size - first;
    this.bar.value = 0;
    this.text.textContent = `Row ${first + 1} of ${size} …`;
    this.live.textContent = `Completing ${size - first} rows.`;
  }

  /**
   * Shows that a row is complete.
   *
   * @param {number} row From 0.
   */
  rowDone(row) {
    const done = row - this.#first + 1;
    const { max } = this.bar;
    this.bar.value = done;
    const seconds = ((performance.now() - this.#start) / 1000 / done) * (max - done);
    const left = done < max && done > 1 ? ` · ${duration(seconds)} left` : "";
    this.text.textContent = `Row ${row + 1} of ${this.#first + max}${left}`;
    const quarter = Math.floor((done / max) * 4);
    if (quarter > this.#quarter && quarter < 4) {
      this.#quarter = quarter;
      this.live.textContent = `${done} of ${max} rows are complete.`;
    }
  }

  /**
   * Says that all rows are complete; eyes see it.
   *
   * @param {string} message
   */
  complete(message) {
    this.live.textContent = message;
  }

  /** Ends, however the run went. */
  end() {
    this.running.hidden = true;
  }

  /**
   * Says how a run went.
   *
   * @param {string} message
   * @param {boolean} [isError]
   */
  say(message, isError = false) {
    this.status.textContent = message;
    this.status.classList.toggle("error", isError);
  }
}

/**
 * Returns a time in words.
 *
 * @param {number} seconds
 * @returns {string}
 */
function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** Server-sent events from the body of a response. */

/**
 * @typedef {object} ServerEvent
 * @property {string} event The event's name.
 * @property {any} data What its JSON holds.
 */

/**
 * Reads events until the stream ends or the caller leaves the loop.
 *
 * @param {ReadableStream<Uint8Array>} body The body of a `text/event-stream`.
 * @yields {ServerEvent}
 */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text = (text + value).replace(/\r\n/g, "\n");
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Parses the lines of one event.
 *
 * @param {string} block Lines without the empty line that ends them.
 * @returns {ServerEvent | null} Null if it holds nothing but comments.
 */
function parseEvent(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (name === "event") event = value;
    if (name === "data") data.push(value);
  }
  return data.length ? { event, data: JSON.parse(data.join("\n")) } : null;
}

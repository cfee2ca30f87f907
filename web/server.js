// Talking to the server: requests, streams, and whether it is there at all.

/** An answer other than 2xx; `status` is its HTTP status. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let key = "";

/** The API key that every request carries from now on; "" = none. */
export function setKey(text) {
  key = text.trim();
}

/** Asks for a path relative to the page; throws Refused for an answer that is not 2xx. */
export async function request(path, { body, signal } = {}) {
  const headers = key ? { Authorization: "Bearer " + key } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers, signal, cache: "no-store",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const words = problem.error?.message ?? problem.error ?? problem.detail;
  const message = typeof words === "string" ? words : "the server answered " + answer.status;
  throw new Refused(answer.status, message);
}

/** Yields the JSON of each server-sent event until [DONE]; a stream that ends without it throws. */
export async function* stream(path, body, signal) {
  const answer = await request(path, { body, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the answer broke off");
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event === "data: [DONE]") return;
      if (!event.startsWith("data: ")) continue;
      const parsed = JSON.parse(event.slice(6));
      if (parsed.error) throw new Error(parsed.error.message);
      yield parsed;
    }
  }
}

/** What went wrong, in words for whoever reads the page. */
export function inWords(error) {
  if (error instanceof Refused) {
    return error.status === 401 ? "This server wants an API key: see Settings." : error.message;
  }
  const silent = error.name === "TimeoutError" || error instanceof TypeError;
  return silent ? "The server does not answer." : error.message;
}

/**
 * Looks at the server again and again: every second, four times a second while `busy()`, not at all
 * while nobody sees the page. `seen` gets {load, models}: what /moesaic/experts says, and the
 * models' cards when the server is new to the page (found, back again or started anew), else null.
 * `lost` gets the error, each time. Returns a function that looks at once.
 */
export function watch({ seen, lost, busy }) {
  let started = null, timer = 0;
  async function look() {
    clearTimeout(timer);
    if (!document.hidden) {
      try {
        const signal = AbortSignal.timeout(5000);
        const load = await (await request("moesaic/experts", { signal })).json();
        const known = started === load.started;
        const models = known ? null : (await (await request("v1/models", { signal })).json()).data;
        started = load.started;
        seen({ load, models });
      } catch (error) {
        started = null;
        lost(error);
      }
    }
    clearTimeout(timer);
    timer = setTimeout(look, busy() ? 250 : 1000);
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) look();
  });
  look();
  return look;
}

// Requests to the server that the page came from. Addresses are relative: a proxy may have put it below a path.

const KEY = "instgenie-api-key";
const PATIENCE_SECONDS = 150; // a server may load its model for a minute
const WATCH_SECONDS = 900; // an accepted edit is worth more
const MAX_PAUSE_SECONDS = 30;
const SILENCE_SECONDS = 60; // a stream of events has a comment every 10
const PASSING = new Set([429, 502, 503, 504]); // a proxy answers for a server that is away
const ENDS = new Set(["done", "failed", "cancelled", "expired"]);

/** What the server said instead of doing it. `passes` where it is worth asking again, after `pauseSeconds`. */
export class ServerError extends Error {
  constructor(message, { status = 0, passes = false, pauseSeconds = 1 } = {}) {
    super(message);
    Object.assign(this, { status, passes, pauseSeconds: Math.min(MAX_PAUSE_SECONDS, pauseSeconds) });
  }
}

/** Texts that outlive a reload of the tab, where the browser lets a page keep them. */
export const kept = {
  memory: new Map(),
  get(name) {
    try {
      return sessionStorage.getItem(name) ?? this.memory.get(name) ?? "";
    } catch {
      return this.memory.get(name) ?? "";
    }
  },
  set(name, text) {
    this.memory.set(name, text);
    try {
      sessionStorage.setItem(name, text);
    } catch {
      // Blocked or full: then a reload forgets it.
    }
  },
};

/** Send that key with every request from now on. */
export function useKey(key) {
  if (!/^[!-~]*$/.test(key.trim())) throw new ServerError("the key has characters that a key never has");
  kept.set(KEY, key.trim());
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = kept.get(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ServerError("the server cannot be reached", { passes: true });
  }
  if (!reply.ok) throw await errorOf(reply);
  return reply;
}

async function errorOf(reply) {
  const body = await reply.json().catch(() => ({}));
  const message = body.error?.message ?? `the server answered ${reply.status} ${reply.statusText}`;
  const pauseSeconds = Number(reply.headers.get("retry-after")) || 1;
  return new ServerError(message, { status: reply.status, passes: PASSING.has(reply.status), pauseSeconds });
}

/** Do it, again and again while what hinders it passes, for a while; `say` is told of every pause. */
async function patiently(work, { say = () => {}, signal, seconds = PATIENCE_SECONDS } = {}) {
  const giveUp = performance.now() + 1000 * seconds;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!error.passes || performance.now() > giveUp) throw error;
      say(`${error.message}; asking again in ${error.pauseSeconds} s`);
      await pause(error.pauseSeconds, signal);
    }
  }
}

function pause(seconds, signal) {
  return new Promise((resume, stop) => {
    const timer = setTimeout(resume, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), stop(signal.reason)), { once: true });
  });
}

/** The model that is served, once the server is there. */
export async function theModel(say) {
  return (await patiently(() => bodyOf("json", "v1/models"), { say, seconds: Infinity })).data[0];
}

/**
 * Have an edit accepted: asked twice, it is still one. Fields are texts and blobs.
 *
 * Aborted, it asks no more; what was sent comes to its end, so that the edit is known if it was accepted.
 */
export async function submit(fields, options) {
  const headers = { "Idempotency-Key": randomName() };
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return patiently(() => bodyOf("json", "v1/edits", { method: "POST", body: form, headers }), options);
}

export const edit = (id) => patiently(() => bodyOf("json", `v1/edits/${id}`));
export const imageOf = (id) => patiently(() => bodyOf("blob", `v1/edits/${id}/image`));
export const blobOf = (path) => patiently(() => bodyOf("blob", path));
/** The edit as it is then; one that had an end before keeps it. */
export const cancel = (id) => patiently(() => bodyOf("json", `v1/edits/${id}`, { method: "DELETE" }));

async function bodyOf(kind, path, options) {
  const reply = await ask(path, options);
  return reply[kind]().catch(() => {
    throw new ServerError("the connection broke off", { passes: true });
  });
}

/** What happens to an edit, until its end, over broken and silent connections: `{kind, data}`. */
export async function* events(id, { say, signal }) {
  let lastId = "";
  for (let heard = performance.now(); ; ) {
    const connection = new AbortController();
    const close = () => connection.abort();
    signal.addEventListener("abort", close);
    const silence = setTimeout(close, 1000 * SILENCE_SECONDS);
    let seconds = 1;
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const reply = await ask(`v1/edits/${id}/events`, { headers, signal: connection.signal });
      clearTimeout(silence);
      heard = performance.now();
      for await (const event of parsed(reply.body, close)) {
        [lastId, heard] = [event.id, performance.now()];
        yield event;
        if (ENDS.has(event.kind)) return;
      }
    } catch (error) {
      if (signal.aborted || (error instanceof ServerError && !error.passes)) throw error;
      seconds = error.pauseSeconds ?? 1;
      if (performance.now() - heard > 1000 * WATCH_SECONDS) throw error;
    } finally {
      clearTimeout(silence);
      close();
      signal.removeEventListener("abort", close);
    }
    say("the connection broke off; asking again");
    await pause(seconds, signal);
  }
}

/** Events of a stream, however its chunks cut them; one that is silent for too long is closed. */
async function* parsed(body, close) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = []; // pieces of the line that is not whole yet: a preview comes in hundreds of them
  let lines = [];
  for (;;) {
    const silence = setTimeout(close, 1000 * SILENCE_SECONDS);
    const { value, done } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const pieces = value.split("\n");
    for (const [i, piece] of pieces.entries()) {
      begun.push(piece);
      if (i === pieces.length - 1) break;
      const line = begun.join("");
      begun = [];
      if (line) {
        lines.push(line);
        continue;
      }
      const event = eventOf(lines);
      lines = [];
      if (event) yield event;
    }
  }
}

/** One event of a stream; null for a comment, which keeps the connection alive. */
function eventOf(lines) {
  const told = lines.filter((line) => !line.startsWith(":"));
  const fields = Object.fromEntries(told.map((line) => [line.split(":", 1)[0], line.slice(line.indexOf(":") + 1).trim()]));
  return fields.data ? { kind: fields.event, id: fields.id ?? "", data: JSON.parse(fields.data) } : null;
}

/** crypto.randomUUID is there on secure pages only. */
function randomName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Requests to the server that the page came from. Addresses are relative: a proxy may have put it below a path.

const KEY = "instgenie-api-key";
const TRIES = 6;
const ENDS = new Set(["done", "failed", "cancelled", "expired"]);

/** What the server said instead of doing it. `passes` where it is worth asking again, after `pauseSeconds`. */
export class ServerError extends Error {
  constructor(message, { status = 0, passes = false, pauseSeconds = 1 } = {}) {
    super(message);
    Object.assign(this, { status, passes, pauseSeconds });
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => sessionStorage.setItem(KEY, key.trim()),
};

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (apiKey.get()) headers.set("Authorization", `Bearer ${apiKey.get()}`);
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch {
    throw new ServerError("the server cannot be reached", { passes: true });
  }
  if (!reply.ok) throw await errorOf(reply);
  return reply;
}

async function errorOf(reply) {
  const body = await reply.json().catch(() => ({}));
  const message = body.error?.message ?? `the server answered ${reply.status} ${reply.statusText}`;
  const pauseSeconds = Number(reply.headers.get("retry-after")) || 1;
  return new ServerError(message, { status: reply.status, passes: [429, 503].includes(reply.status), pauseSeconds });
}

/** Do it, again and again while what hinders it passes; `say` is told of every pause. */
async function patiently(work, say) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await work();
    } catch (error) {
      if (!error.passes || failures >= TRIES) throw error;
      const seconds = error.status ? error.pauseSeconds : failures;
      say(`${error.message}; asking again in ${seconds} s`);
      await pause(seconds);
    }
  }
}

const pause = (seconds) => new Promise((resume) => setTimeout(resume, 1000 * seconds));

/** The model that is served. */
export async function theModel(say) {
  const reply = await patiently(() => ask("v1/models"), say);
  return (await reply.json()).data[0];
}

/** Have an edit accepted; the same key twice is the same edit. Fields are texts and blobs. */
export async function submit(fields, say) {
  const headers = { "Idempotency-Key": randomName() };
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  const reply = await patiently(() => ask("v1/edits", { method: "POST", body: form, headers }), say);
  return reply.json();
}

export const edit = async (id) => (await ask(`v1/edits/${id}`)).json();
export const imageOf = async (id) => (await ask(`v1/edits/${id}/image`)).blob();
export const cancel = (id) => ask(`v1/edits/${id}`, { method: "DELETE" });

/** What happens to an edit, until its end, over broken connections: `{kind, data}`. */
export async function* events(id, say) {
  let lastId = "";
  for (let failures = 0; ; ) {
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const reply = await ask(`v1/edits/${id}/events`, { headers });
      for await (const event of parsed(reply.body)) {
        failures = 0;
        lastId = event.id;
        yield event;
        if (ENDS.has(event.kind)) return;
      }
    } catch (error) {
      if (!error.passes) throw error;
    }
    failures += 1;
    if (failures > TRIES) throw new ServerError("the connection broke off, and the server cannot be reached");
    say("the connection broke off; asking again");
    await pause(failures);
  }
}

async function* parsed(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(() => {
        throw new ServerError("the connection broke off", { passes: true });
      });
      if (done) return;
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const event = eventOf(part);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** One event of a stream; null for a comment, which keeps the connection alive. */
function eventOf(part) {
  const lines = part.split("\n").filter((line) => line && !line.startsWith(":"));
  const fields = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
  return fields.data ? { kind: fields.event, id: fields.id ?? "", data: JSON.parse(fields.data) } : null;
}

/** crypto.randomUUID is there on secure pages only. */
function randomName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

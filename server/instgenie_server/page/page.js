// The page: a picture, a mask on it, an edit that is watched step by step, its result beside what was there.

import { MaskCanvas } from "./mask_canvas.js";
import { ServerError, blobOf, cancel, edit, events, imageOf, kept, submit, theModel, useKey } from "./server.js";

const RUNNING = "instgenie-running-edit"; // found again after a reload
const MAX_PREVIEW_PIXELS = 2e6; // a preview is as large as the picture

const $ = (id) => document.getElementById(id);

let model = null;
let picture = null; // {blob, url}
let choices = 0; // of pictures and samples: an earlier one that loads later is dropped
let running = null; // {id, abort}
let resultUrls = [];

const mask = new MaskCanvas($("mask"), $("cursor"), (some) => {
  $("mask").dataset.painted = some;
  showWhatCanBeDone();
});

class UnusableError extends Error {}

const say = (text) => ($("status").textContent = text);

function tell(error) {
  $("error").textContent = error ? error.message : "";
  if (error?.status === 401) $("access").open = true;
}

function showWhatCanBeDone() {
  $("picking").disabled = Boolean(running);
  $("masking").disabled = Boolean(running) || !picture;
  $("edit").disabled = Boolean(running) || !picture || $("mask").dataset.painted !== "true";
  $("cancel").hidden = !running;
}

/** Run what a button or a file began; what fails of it is shown. */
async function attempt(work) {
  tell(null);
  try {
    await work();
  } catch (error) {
    tell(error);
    if (!(error instanceof ServerError) && !(error instanceof UnusableError)) throw error;
  }
}

// The model

async function greet() {
  model = await theModel(say);
  say("");
  $("model").textContent = `${model.id}, ${model.dtype} on ${model.device}`;
  $("steps").placeholder = model.defaults.steps;
  $("steps").max = model.limits.steps;
  $("guidance").placeholder = model.defaults.guidance;
  $("guidance").max = model.limits.guidance;
  $("names").replaceChildren(...model.draws.map((name) => new Option(name, name)));
  $("draws").hidden = !model.draws.length;
  $("draws-names").textContent = model.draws.join(", ");
}

// The picture

async function decoded(blob) {
  const image = new Image();
  const url = URL.createObjectURL(blob);
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new UnusableError("this is no picture that can be shown: PNG, JPEG and WebP can");
  }
  return { image, url };
}

/**
 * Take a picture, and a mask if there is one, unless another one is chosen before they are there.
 *
 * `load` gives both. Whether they were taken is what it comes to.
 */
async function choose(load) {
  const choice = (choices += 1);
  const [source, maskSource] = await load();
  const limit = model?.limits.image_bytes;
  if (limit && source.size > limit) {
    throw new UnusableError(`the picture has ${source.size} bytes, ${limit} are allowed`);
  }
  const blob = new Blob([await source.arrayBuffer()], { type: source.type }); // its file may change
  const { image, url } = await decoded(blob);
  const itsMask = maskSource && (await decoded(maskSource));
  if (choice !== choices || running) return false;
  if (picture) URL.revokeObjectURL(picture.url);
  picture = { blob, url, pixels: image.naturalWidth * image.naturalHeight };
  $("picture").src = url;
  fit($("painting"), image.naturalWidth, image.naturalHeight);
  $("empty").hidden = true;
  $("painting").hidden = false;
  hideResult();
  say("");
  mask.reset(image.naturalWidth, image.naturalHeight);
  if (itsMask) takeMask(itsMask);
  return true;
}

function takeMask({ image, url }) {
  URL.revokeObjectURL(url);
  const [width, height] = mask.size;
  const [found, other] = [image.naturalWidth, image.naturalHeight];
  if (found !== width || other !== height) {
    throw new UnusableError(`the mask has ${found}x${other} pixels, the picture ${width}x${height}`);
  }
  mask.take(image);
}

async function sample(name, prompt) {
  const parts = ["template", "mask"].map((part) => `page/${name}_${part}.png`);
  if (await choose(() => Promise.all(parts.map(blobOf)))) $("prompt").value = prompt;
}

/** Show a picture of that size as large as there is room, small ones larger than they are. */
function fit(element, width, height) {
  element.style.setProperty("--ratio", width / height);
  element.style.setProperty("--natural", `${width}px`);
}

// The edit

async function fields() {
  if (mask.isEmpty) throw new UnusableError("nothing is masked: paint over what is to change");
  const masked = await mask.blob();
  if (!masked) throw new UnusableError(`this browser makes no mask of ${mask.size.join("x")} pixels: take a smaller picture`);
  const chosen = { prompt: $("prompt").value, mask_mode: "luminance" };
  if (picture.pixels <= MAX_PREVIEW_PIXELS) chosen.partial_images = "3";
  for (const name of ["seed", "steps", "guidance", "fidelity"]) if ($(name).value) chosen[name] = $(name).value;
  return { ...chosen, image: picture.blob, mask: masked };
}

/** Begin an edit, or go on watching one, and show what becomes of it. */
async function run(begin) {
  const abort = new AbortController();
  const hadFocus = document.activeElement === $("edit");
  running = { id: null, abort };
  showWhatCanBeDone();
  if (hadFocus) $("cancel").focus();
  let shown = false;
  try {
    const { id, before } = await begin(abort.signal);
    running.id = id;
    kept.set(RUNNING, id);
    const end = await watch(id, abort.signal);
    kept.set(RUNNING, "");
    if (end.kind === "done") shown = await show(id, before);
    else if (end.kind === "cancelled") say("cancelled");
    else throw new ServerError(end.data.message ?? `the edit ${end.kind}`);
  } catch (error) {
    if (abort.signal.aborted || error.status === 404) kept.set(RUNNING, "");
    say(abort.signal.aborted ? "cancelled" : "");
    if (!abort.signal.aborted) throw error;
  } finally {
    const hasFocus = document.activeElement === $("cancel");
    running = null;
    for (const id of ["progress", "step", "preview"]) $(id).hidden = true;
    showWhatCanBeDone();
    if (hasFocus) $(shown ? "divider" : "edit").focus();
  }
}

async function send(signal) {
  say("sending");
  const { blob } = picture;
  const job = await submit(await fields(), { say, signal });
  if (signal.aborted) await cancel(job.id); // it was accepted while it was being cancelled
  return { id: job.id, before: blob };
}

async function watch(id, signal) {
  let last = null;
  for await (const event of events(id, { say, signal })) {
    last = event;
    const { position, step, steps, preview_b64: preview } = event.data;
    if (event.kind === "queued") say(position > 1 ? `queued, ${position - 1} before it` : "queued");
    if (event.kind === "started") say("editing");
    if (event.kind === "step") {
      Object.assign($("step"), { hidden: false, textContent: `step ${step} of ${steps}` });
      Object.assign($("progress"), { hidden: false, value: step / steps });
    }
    if (preview) showPreview(`data:image/png;base64,${preview}`);
  }
  return last;
}

async function showPreview(url) {
  const image = new Image();
  image.src = url;
  await image.decode().catch(() => {});
  if (!running || !image.naturalWidth) return;
  fit($("preview"), image.naturalWidth, image.naturalHeight);
  Object.assign($("preview"), { hidden: false, src: url });
}

/** Show the result beside the picture it was made of, where that is known: not after a reload. */
async function show(id, before) {
  const blob = await imageOf(id);
  const job = await edit(id).catch(() => null); // the picture is what counts
  const { image, url } = await decoded(blob);
  hideResult();
  const beforeUrl = before && URL.createObjectURL(before);
  resultUrls = [url, ...(before ? [beforeUrl] : [])];
  $("before").src = beforeUrl ?? url;
  $("after").src = url;
  $("download").href = url;
  await Promise.all([$("before").decode(), $("after").decode()]);
  fit($("comparison"), image.naturalWidth, image.naturalHeight);
  $("dividing").hidden = !before;
  divide(0);
  $("result").hidden = false;
  $("go-on").onclick = () => attempt(() => choose(async () => [blob]).then(() => $("mask").focus()));
  say(job ? summary(job) : "done");
  return Boolean(before);
}

/** One line: how long it took, what was computed, and the seed that makes it again. */
function summary({ timings, started_at: started, finished_at: finished, cache, tier, seed }) {
  const { steps, extrapolated_steps: skipped, dense_steps: dense, tokens_active: active, tokens_total: total } = timings;
  const share = (dense * total + (steps - skipped - dense) * active) / (steps * total);
  const known = { hit: `records from ${tier}`, cold: "its template was recorded", off: "no records" };
  const records = known[cache] ?? `records ${cache}`;
  return `${(finished - started).toFixed(1)} s, ${Math.round(100 * share)} % of the tokens, ${records}, seed ${seed}`;
}

function hideResult() {
  $("result").hidden = true;
  for (const url of resultUrls) URL.revokeObjectURL(url);
  resultUrls = [];
}

function divide(percent) {
  $("divider").value = percent;
  $("after").style.clipPath = `inset(0 0 0 ${percent}%)`;
}

/** Cancel what runs: an edit that is still being sent is cancelled once the server knows it. */
async function stop() {
  const { id, abort } = running;
  if (!id) return abort.abort();
  const job = await cancel(id);
  if (job.status === "cancelled") abort.abort();
}

// What the page reacts to

function chooseFrom(files) {
  const file = Array.from(files).find((one) => one.type.startsWith("image/"));
  if (running || !files.length) return;
  attempt(async () => {
    if (!file) throw new UnusableError(`${files[0].name} is no picture`);
    await choose(async () => [file]);
  });
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("edit").disabled) attempt(() => run(send));
});
// A setting that is not to be, and that nobody sees, would keep the form from being sent without a word.
$("form").addEventListener("invalid", () => ($("settings").open = true), true);
$("cancel").addEventListener("click", () => attempt(stop));
$("file").addEventListener("change", () => {
  chooseFrom($("file").files);
  $("file").value = ""; // so that the same one can be chosen again
});
$("mask-file").addEventListener("change", () => {
  const [file] = $("mask-file").files;
  if (file) attempt(async () => takeMask(await decoded(file)));
  $("mask-file").value = "";
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", () => attempt(() => sample(button.dataset.sample, button.dataset.prompt)));
}
$("tools").addEventListener("change", (event) => (mask.tool = event.target.value));
$("width").addEventListener("input", () => (mask.width = $("width").valueAsNumber));
$("undo").addEventListener("click", () => mask.undo());
$("clear").addEventListener("click", () => mask.clear());
$("divider").addEventListener("input", () => divide($("divider").value));
$("key").addEventListener("change", () => {
  attempt(async () => {
    useKey($("key").value);
    await arrive();
  });
});
document.addEventListener("dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  chooseFrom(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.types.includes("text/plain")) chooseFrom(event.clipboardData.files);
});
document.addEventListener("keydown", (event) => {
  const isUndo = event.key === "z" && (event.ctrlKey || event.metaKey) && event.target === $("mask");
  if (isUndo && !running) mask.undo();
});

/** Get to know the server; an edit that was running when the page was left is watched on. */
async function arrive() {
  await greet();
  const id = kept.get(RUNNING);
  if (id && !running) await run(async () => ({ id, before: null }));
}

attempt(arrive);

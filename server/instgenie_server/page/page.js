// The page: a picture, a mask on it, an edit that is watched step by step, its result beside what was there.

import { MaskCanvas } from "./mask_canvas.js";
import { ServerError, apiKey, cancel, edit, events, imageOf, submit, theModel } from "./server.js";

const $ = (id) => document.getElementById(id);

let model = null;
let picture = null; // {blob, url}
let resultUrl = null;
let runningId = null;
let isBusy = false;

const mask = new MaskCanvas($("mask"), $("cursor"), (some) => {
  $("mask").dataset.painted = some;
  showWhatCanBeDone();
});

const say = (text) => ($("status").textContent = text);

function tell(error) {
  $("error").textContent = error ? error.message : "";
  if (error?.status === 401) $("access").open = true;
}

function showWhatCanBeDone() {
  $("edit").disabled = isBusy || !picture || $("mask").dataset.painted !== "true";
  $("cancel").hidden = !runningId;
  $("masking").disabled = isBusy || !picture;
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

class UnusableError extends Error {}

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
  $("hint").hidden = !model.draws.length;
  $("hint").textContent = `This model draws what it was trained on, by ${model.draws.length} names: see the prompt's list.`;
}

// The picture

async function decoded(blob) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await image.decode();
  } catch {
    throw new UnusableError("this is no picture that can be shown: PNG, JPEG and WebP can");
  } finally {
    setTimeout(() => URL.revokeObjectURL(image.src), 60_000);
  }
  return image;
}

async function choose(blob) {
  const limit = model?.limits.image_bytes;
  if (limit && blob.size > limit) throw new UnusableError(`the picture has ${blob.size} bytes, ${limit} are allowed`);
  const image = await decoded(blob);
  if (picture) URL.revokeObjectURL(picture.url);
  picture = { blob, url: URL.createObjectURL(blob) };
  $("picture").src = picture.url;
  $("empty").hidden = true;
  $("painting").hidden = false;
  hideResult();
  say("");
  mask.reset(image.naturalWidth, image.naturalHeight);
}

async function takeMask(blob) {
  const image = await decoded(blob);
  const [width, height] = mask.size;
  const [found, other] = [image.naturalWidth, image.naturalHeight];
  if (found !== width || other !== height) {
    throw new UnusableError(`the mask has ${found}x${other} pixels, the picture ${width}x${height}`);
  }
  mask.take(image);
}

async function sample(name, prompt) {
  const files = ["template", "mask"].map(async (part) => (await fetch(`page/${name}_${part}.png`)).blob());
  const [template, itsMask] = await Promise.all(files);
  await choose(template);
  await takeMask(itsMask);
  $("prompt").value = prompt;
}

// The edit

async function fields() {
  const chosen = { prompt: $("prompt").value, mask_mode: "luminance", partial_images: "3" };
  for (const name of ["seed", "steps", "guidance", "fidelity"]) if ($(name).value) chosen[name] = $(name).value;
  return { ...chosen, image: picture.blob, mask: await mask.blob() };
}

async function run() {
  hideResult();
  [isBusy, runningId] = [true, null];
  showWhatCanBeDone();
  say("sending");
  const before = picture;
  try {
    const job = await submit(await fields(), say);
    runningId = job.id;
    showWhatCanBeDone();
    const end = await watch(job.id);
    if (end.kind === "done") await show(job.id, before);
    else if (end.kind === "cancelled") say("cancelled");
    else throw new ServerError(end.data.message ?? `the edit ${end.kind}`);
  } catch (error) {
    say("");
    throw error;
  } finally {
    [isBusy, runningId] = [false, null];
    $("progress").hidden = true;
    $("preview").hidden = true;
    showWhatCanBeDone();
  }
}

async function watch(id) {
  let last = null;
  for await (const event of events(id, say)) {
    last = event;
    const { position, step, steps, preview_b64: preview } = event.data;
    if (event.kind === "queued") say(position > 1 ? `queued, ${position - 1} before it` : "queued");
    if (event.kind === "started") say("started");
    if (event.kind === "step") {
      say(`step ${step} of ${steps}`);
      Object.assign($("progress"), { hidden: false, value: step / steps });
    }
    if (preview) Object.assign($("preview"), { hidden: false, src: `data:image/png;base64,${preview}` });
  }
  return last;
}

async function show(id, before) {
  const [blob, job] = await Promise.all([imageOf(id), edit(id)]);
  hideResult();
  resultUrl = URL.createObjectURL(blob);
  $("before").src = before.url;
  $("after").src = resultUrl;
  $("download").href = resultUrl;
  await $("after").decode();
  divide(0);
  $("result").hidden = false;
  $("go-on").onclick = () => attempt(() => choose(blob));
  say(summary(job));
}

/** One line: how long it took, what was computed, and the seed that makes it again. */
function summary({ timings, started_at: started, finished_at: finished, cache, tier, seed }) {
  const { steps, extrapolated_steps: skipped, dense_steps: dense, tokens_active: active, tokens_total: total } = timings;
  const share = (dense * total + (steps - skipped - dense) * active) / (steps * total);
  const records = { hit: `records from ${tier}`, cold: "its template was recorded", off: "no records" }[cache] ?? `records ${cache}`;
  return `${(finished - started).toFixed(1)} s, ${Math.round(100 * share)} % of the tokens, ${records}, seed ${seed}`;
}

function hideResult() {
  $("result").hidden = true;
  if (resultUrl) URL.revokeObjectURL(resultUrl);
  resultUrl = null;
}

function divide(percent) {
  $("divider").value = percent;
  $("after").style.clipPath = `inset(0 0 0 ${percent}%)`;
}

// What the page reacts to

const pictureOf = (files) => Array.from(files).find((file) => file.type.startsWith("image/"));
const chooseFrom = (files) => {
  const file = pictureOf(files);
  if (file && !isBusy) attempt(() => choose(file));
};

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("edit").disabled) attempt(run);
});
$("cancel").addEventListener("click", () => attempt(() => cancel(runningId)));
$("file").addEventListener("change", () => chooseFrom($("file").files));
$("mask-file").addEventListener("change", () => {
  const file = pictureOf($("mask-file").files);
  if (file) attempt(() => takeMask(file));
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
  apiKey.set($("key").value);
  attempt(greet);
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  chooseFrom(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => chooseFrom(event.clipboardData.files));
document.addEventListener("keydown", (event) => {
  const isUndo = event.key === "z" && (event.ctrlKey || event.metaKey) && event.target === $("mask");
  if (isUndo && !isBusy) mask.undo();
});

attempt(greet);

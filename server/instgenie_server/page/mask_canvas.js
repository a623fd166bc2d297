// A mask that is painted over a picture: opaque where the picture is to change.

const COLOUR = "#f0f";
const MAX_PIXELS = 4e6; // of what is painted on; larger pictures get their mask scaled up
const PAINTERS = {
  brush: stroke,
  erase: stroke,
  box: (ink, { points }) => ink.fillRect(...corners(points)),
  file: (ink, { bitmap }) => ink.drawImage(bitmap, 0, 0),
  clear: (ink) => ink.clearRect(0, 0, ink.canvas.width, ink.canvas.height),
};
const WHOLE = new Set(["clear", "file"]); // what was painted before them does not show
const REMOVES = new Set(["clear", "erase"]);

function stroke(ink, { points, width }) {
  ink.lineWidth = width;
  ink.beginPath();
  ink.moveTo(...points[0]);
  // A dab is a line that goes nowhere.
  for (const point of points.length > 1 ? points.slice(1) : points) ink.lineTo(...point);
  ink.stroke();
}

function corners(points) {
  const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)];
  return [Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0)];
}

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** Paints by pointer and by keyboard. What was painted is kept as a list, so that it can be undone. */
export class MaskCanvas {
  #canvas;
  #ink;
  #cursor;
  #changed;
  #size = [1, 1];
  #marks = [];
  #current = null;
  #pointer = null;
  #at = [0, 0];
  #tool = "brush";
  /** Of the brush, in hundredths of the picture's shorter side. */
  width = 12;

  /** `changed` is called with whether there may be something in the mask. */
  constructor(canvas, cursor, changed) {
    this.#canvas = canvas;
    this.#ink = canvas.getContext("2d");
    this.#cursor = cursor;
    this.#changed = changed;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#pointer === event.pointerId && this.#end());
    canvas.addEventListener("pointercancel", (event) => this.#pointer === event.pointerId && this.#drop());
    canvas.addEventListener("pointerleave", () => this.#showCursor(false));
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("focus", () => this.#showCursor(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => (this.#drop(), this.#showCursor(false)));
  }

  /** Width and height of the picture. */
  get size() {
    return this.#size;
  }

  set tool(name) {
    this.#drop();
    this.#tool = name;
  }

  /** Begin anew, for a picture of that size. */
  reset(width, height) {
    const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
    this.#size = [width, height];
    Object.assign(this.#canvas, { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
    this.#at = this.#limits.map((value) => value / 2);
    this.#marks = [];
    this.#drop();
  }

  clear() {
    this.#add({ tool: "clear" });
  }

  undo() {
    if (!this.#current) this.#marks.pop();
    this.#drop();
  }

  /** Take a mask from a picture of this one's size: white is masked, or transparent where its alpha varies. */
  take(picture) {
    const bitmap = canvasOf(...this.#limits);
    const ink = bitmap.getContext("2d");
    ink.drawImage(picture, 0, 0, ...this.#limits);
    const pixels = ink.getImageData(0, 0, ...this.#limits);
    const bytes = pixels.data;
    let byAlpha = false;
    for (let i = 3; i < bytes.length && !byAlpha; i += 4) byAlpha = bytes[i] !== bytes[3];
    for (let i = 0; i < bytes.length; i += 4) {
      const light = 0.299 * bytes[i] + 0.587 * bytes[i + 1] + 0.114 * bytes[i + 2];
      const masked = byAlpha ? bytes[i + 3] < 128 : light > 127;
      bytes[i] = bytes[i + 2] = 255;
      bytes[i + 1] = 0;
      bytes[i + 3] = masked ? 255 : 0;
    }
    ink.putImageData(pixels, 0, 0);
    this.#add({ tool: "file", bitmap });
  }

  /** Whether nothing is masked; what was painted may have been erased. */
  get isEmpty() {
    const bytes = this.#ink.getImageData(0, 0, ...this.#limits).data;
    for (let i = 3; i < bytes.length; i += 4) if (bytes[i] > 127) return false;
    return true;
  }

  /** The mask as a PNG of the picture's size, white where it is to change; null where the browser cannot make it. */
  blob() {
    this.#drop();
    const copy = canvasOf(...this.#size);
    const ink = copy.getContext("2d");
    ink.drawImage(this.#canvas, 0, 0, ...this.#size);
    ink.globalCompositeOperation = "source-in";
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, ...this.#size);
    ink.globalCompositeOperation = "destination-over";
    ink.fillStyle = "#000";
    ink.fillRect(0, 0, ...this.#size);
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }

  /** Width and height of what is painted on. */
  get #limits() {
    return [this.#canvas.width, this.#canvas.height];
  }

  #begin(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.#current = this.#mark(this.#place(event));
    this.#redraw();
  }

  #move(event) {
    if (!event.isPrimary) return;
    this.#at = this.#place(event);
    this.#showCursor(true);
    if (!this.#current || this.#pointer !== event.pointerId) return;
    const between = event.getCoalescedEvents?.() ?? [];
    const begun = this.#current.points.length;
    this.#current.points.push(...(between.length ? between : [event]).map((one) => this.#place(one)));
    if (this.#tool === "box") this.#redraw();
    else this.#draw({ ...this.#current, points: this.#current.points.slice(begun - 1) });
  }

  #end() {
    const mark = this.#current;
    [this.#current, this.#pointer] = [null, null];
    if (mark && (mark.tool !== "box" || corners(mark.points).slice(2).every((side) => side >= 1))) this.#add(mark);
    else this.#redraw();
  }

  /** Forget what was begun. */
  #drop() {
    [this.#current, this.#pointer] = [null, null];
    this.#redraw();
  }

  #press(event) {
    const reach = this.#pixels() / 2;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in ways) {
      const limits = this.#limits;
      this.#at = this.#at.map((value, i) => Math.min(limits[i], Math.max(0, value + reach * ways[event.key][i])));
      if (this.#current) this.#current.points.push(this.#at);
      this.#redraw();
    } else if (event.key === " " && this.#current) {
      this.#end();
    } else if (event.key === " " && this.#tool === "box") {
      this.#current = this.#mark(this.#at);
    } else if (event.key === " ") {
      this.#add(this.#mark(this.#at));
    } else if (event.key === "Escape") {
      this.#drop();
    } else {
      return;
    }
    event.preventDefault();
    this.#showCursor(true);
  }

  #mark(point) {
    return { tool: this.#tool, width: this.#pixels(), points: [point] };
  }

  #add(mark) {
    this.#marks.push(mark);
    this.#redraw();
  }

  /** Width of the brush in pixels of what is painted on. */
  #pixels() {
    return Math.max(1, (this.width / 100) * Math.min(...this.#limits));
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [width, height] = this.#limits;
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  #showCursor(shown) {
    this.#cursor.hidden = !shown;
    const [width, height] = this.#limits;
    const side = this.#tool === "box" ? 8 : (this.#pixels() / width) * this.#canvas.getBoundingClientRect().width;
    Object.assign(this.#cursor.style, {
      left: `${(100 * this.#at[0]) / width}%`,
      top: `${(100 * this.#at[1]) / height}%`,
      width: `${side}px`,
      height: `${side}px`,
    });
  }

  #draw(mark) {
    const ink = this.#ink;
    Object.assign(ink, { strokeStyle: COLOUR, fillStyle: COLOUR, lineCap: "round", lineJoin: "round" });
    ink.globalCompositeOperation = mark.tool === "erase" ? "destination-out" : "source-over";
    PAINTERS[mark.tool](ink, mark);
  }

  #redraw() {
    this.#ink.clearRect(0, 0, ...this.#limits);
    const since = this.#marks.slice(Math.max(0, this.#marks.findLastIndex((mark) => WHOLE.has(mark.tool))));
    for (const mark of this.#current ? [...since, this.#current] : since) this.#draw(mark);
    this.#changed(since.some((mark) => !REMOVES.has(mark.tool)));
  }
}

// A mask that is painted on a canvas of the picture's size: opaque where the picture is to change.

const COLOUR = "#f0f";
const PAINTERS = {
  brush: stroke,
  erase: stroke,
  box(ink, { points }) {
    const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)];
    ink.fillRect(Math.min(x0, x1), Math.min(y0, y1), Math.abs(x1 - x0), Math.abs(y1 - y0));
  },
  file: (ink, { bitmap }) => ink.drawImage(bitmap, 0, 0),
};

function stroke(ink, { points, width }) {
  ink.lineWidth = width;
  ink.beginPath();
  ink.moveTo(...points[0]);
  // A dab is a line that goes nowhere.
  for (const point of points.length > 1 ? points.slice(1) : points) ink.lineTo(...point);
  ink.stroke();
}

/** Paints by pointer and by keyboard. What was painted is kept as a list, so that it can be undone. */
export class MaskCanvas {
  #canvas;
  #ink;
  #cursor;
  #changed;
  #marks = [];
  #current = null;
  #at = [0, 0];
  tool = "brush";
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
    canvas.addEventListener("pointerup", () => this.#end());
    canvas.addEventListener("pointercancel", () => this.#end());
    canvas.addEventListener("pointerleave", () => this.#showCursor(false));
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("blur", () => this.#showCursor(false));
  }

  get size() {
    return [this.#canvas.width, this.#canvas.height];
  }

  /** Begin anew, for a picture of that size. */
  reset(width, height) {
    Object.assign(this.#canvas, { width, height });
    this.#at = [width / 2, height / 2];
    this.clear();
  }

  clear() {
    this.#marks = [];
    this.#current = null;
    this.#redraw();
  }

  undo() {
    this.#marks.pop();
    this.#redraw();
  }

  /** Take a mask from a picture of this one's size: white is masked, or transparent where its alpha varies. */
  take(picture) {
    const [width, height] = this.size;
    const bitmap = Object.assign(document.createElement("canvas"), { width, height });
    const ink = bitmap.getContext("2d");
    ink.drawImage(picture, 0, 0);
    const pixels = ink.getImageData(0, 0, width, height);
    const bytes = pixels.data;
    let byAlpha = false;
    for (let i = 3; i < bytes.length && !byAlpha; i += 4) byAlpha = bytes[i] !== bytes[3];
    for (let i = 0; i < bytes.length; i += 4) {
      const light = 0.299 * bytes[i] + 0.587 * bytes[i + 1] + 0.114 * bytes[i + 2];
      const masked = byAlpha ? bytes[i + 3] < 128 : light > 127;
      bytes.set([255, 0, 255, masked ? 255 : 0], i);
    }
    ink.putImageData(pixels, 0, 0);
    this.#marks = [{ tool: "file", bitmap }];
    this.#redraw();
  }

  /** The mask as a PNG, white where the picture is to change. */
  blob() {
    const [width, height] = this.size;
    const copy = Object.assign(document.createElement("canvas"), { width, height });
    const ink = copy.getContext("2d");
    ink.drawImage(this.#canvas, 0, 0);
    ink.globalCompositeOperation = "source-in";
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, width, height);
    ink.globalCompositeOperation = "destination-over";
    ink.fillStyle = "#000";
    ink.fillRect(0, 0, width, height);
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }

  #begin(event) {
    if (event.button !== 0) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#current = this.#mark(this.#place(event));
    this.#redraw();
  }

  #move(event) {
    this.#at = this.#place(event);
    this.#showCursor(this.tool !== "box");
    if (!this.#current) return;
    const between = event.getCoalescedEvents?.() ?? [];
    this.#current.points.push(...(between.length ? between : [event]).map((one) => this.#place(one)));
    this.#redraw();
  }

  #end() {
    if (!this.#current) return;
    this.#marks.push(this.#current);
    this.#current = null;
    this.#redraw();
  }

  #press(event) {
    const reach = this.#pixels() / 2;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in ways) {
      const limits = this.size;
      this.#at = this.#at.map((value, i) => Math.min(limits[i], Math.max(0, value + reach * ways[event.key][i])));
      if (this.#current) this.#current.points.push([...this.#at]);
    } else if (event.key === " ") {
      if (this.tool === "box" && !this.#current) this.#current = this.#mark([...this.#at]);
      else if (this.tool === "box") return event.preventDefault(), this.#end();
      else this.#marks.push(this.#mark([...this.#at]));
    } else if (event.key === "Escape") {
      this.#current = null;
    } else {
      return;
    }
    event.preventDefault();
    this.#showCursor(true);
    this.#redraw();
  }

  #mark(point) {
    return { tool: this.tool, width: this.#pixels(), points: [point] };
  }

  /** Width of the brush in pixels of the picture. */
  #pixels() {
    return Math.max(1, (this.width / 100) * Math.min(...this.size));
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [width, height] = this.size;
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  #showCursor(shown) {
    this.#cursor.hidden = !shown;
    const [width, height] = this.size;
    const side = (this.#pixels() / width) * this.#canvas.getBoundingClientRect().width;
    Object.assign(this.#cursor.style, {
      left: `${(100 * this.#at[0]) / width}%`,
      top: `${(100 * this.#at[1]) / height}%`,
      width: `${side}px`,
      height: `${side}px`,
    });
  }

  #redraw() {
    const ink = this.#ink;
    const marks = this.#current ? [...this.#marks, this.#current] : this.#marks;
    ink.clearRect(0, 0, ...this.size);
    Object.assign(ink, { strokeStyle: COLOUR, fillStyle: COLOUR, lineCap: "round", lineJoin: "round" });
    for (const mark of marks) {
      ink.globalCompositeOperation = mark.tool === "erase" ? "destination-out" : "source-over";
      PAINTERS[mark.tool](ink, mark);
    }
    this.#changed(this.#marks.some((mark) => mark.tool !== "erase"));
  }
}

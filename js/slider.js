/** A before/after slider for pairs of pictures of the same size. It does not depend on ComfyUI. */

const MAX_ZOOM = 32;
const STEP = 2;
const LARGE_STEP = 10;

/** Minimum scale at which the pixels of the pictures are shown as squares. */
const SQUARES_FROM = 4;

const template = (text) => `
  <div class="lpnsr-stage" data-capture-wheel="true">
    <div class="lpnsr-side"><span></span></div>
    <div class="lpnsr-side"><span></span></div>
    <div class="lpnsr-divider" role="slider" tabindex="0" aria-label="${text("Divider")}"
      aria-valuemin="0" aria-valuemax="100" aria-orientation="horizontal"><i></i></div>
    <p role="status"></p>
  </div>
  <div class="lpnsr-note" role="note"></div>
  <div class="lpnsr-bar" title="${text("Wheel: zoom. Shift or middle button: pan. Double click: fit.")}">
    <span class="lpnsr-picker">
      <button type="button" aria-label="${text("Previous picture")}">‹</button>
      <output></output>
      <button type="button" aria-label="${text("Next picture")}">›</button>
    </span>
    <span class="lpnsr-info"></span>
    <button type="button">${text("Fit")}</button>
    <button type="button" aria-pressed="false">${text("Full screen")}</button>
  </div>`;

export class Slider {
  #labels;
  #hint;
  #text;
  #onShown;
  #stage;
  #sides;
  #divider;
  #status;
  #note;
  #picker;
  #info;

  #pairs = [];
  #index = 0;
  #images = [];

  /** Position of the divider in percent of the width of the stage. */
  #position = 50;
  /** Positions of the divider before the last two pointer presses. */
  #before = [50, 50];
  /** Zoom factor. 1 shows the whole picture. */
  #zoom = 1;
  /** Pixel of the picture that is shown at the centre of the stage. */
  #center = [0, 0];
  /** Last position of each pressed pointer on the stage, by pointer id. */
  #pointers = new Map();
  #panning = false;

  /**
   * @param {object} options
   * @param {string[]} options.labels labels of the left and the right picture
   * @param {string} options.hint text that is shown while there is no picture
   * @param {(english: string, values?: object) => string} options.text translates a text
   * @param {(left: HTMLImageElement, right: HTMLImageElement) => void} options.onShown called
   *   whenever a pair is shown
   */
  constructor({ labels, hint, text, onShown }) {
    this.#labels = labels;
    this.#hint = hint;
    this.#text = text;
    this.#onShown = onShown;
    this.element = document.createElement("div");
    this.element.className = "lpnsr-compare widget-expands";
    this.element.innerHTML = template(text);
    const find = (selector) => this.element.querySelector(selector);
    this.#stage = find(".lpnsr-stage");
    this.#sides = [...this.element.querySelectorAll(".lpnsr-side")];
    this.#sides.forEach((side, i) => (side.querySelector("span").textContent = labels[i]));
    this.#divider = find(".lpnsr-divider");
    this.#status = find("p");
    this.#note = find(".lpnsr-note");
    this.#picker = find(".lpnsr-picker");
    this.#info = find(".lpnsr-info");
    this.#listen();
    this.#say(hint);
    this.#moveTo(50);
  }

  /**
   * Show the first of several pairs of pictures. Does nothing if the pairs have not changed.
   * @param {string[][]} pairs URLs [left, right]
   */
  show(pairs) {
    if (String(pairs) === String(this.#pairs)) return;
    this.#pairs = pairs;
    this.#pick(0);
  }

  /**
   * Show a line of text below the pictures, or hide it if the text is empty.
   * @param {string} text
   */
  note(text) {
    this.#note.textContent = text;
  }

  async #pick(index) {
    const pair = this.#pairs[index];
    this.#index = index;
    this.#picker.hidden = this.#pairs.length < 2;
    this.#picker.querySelector("output").textContent = `${index + 1} / ${this.#pairs.length}`;
    if (!pair) {
      this.#put([]);
      this.#say(this.#hint);
      return;
    }
    const images = pair.map((src, i) =>
      Object.assign(new Image(), { src, alt: this.#labels[i], draggable: false }),
    );
    try {
      // Decode large pictures asynchronously, and show the old ones until that is done.
      await Promise.all(images.map((image) => image.decode()));
    } catch {
      if (pair === this.#pairs[this.#index]) {
        this.#put([]);
        this.#say(this.#text("The pictures are no longer there. Run the workflow again."));
      }
      return;
    }
    if (pair !== this.#pairs[this.#index]) return; // another pair has been picked in the meantime
    this.#put(images);
    this.#say("");
    this.#onShown(...images);
  }

  #put(images) {
    const [old, now] = [this.#images[0], images[0]];
    const stay = // keep zoom and position if the size is the same
      old?.naturalWidth === now?.naturalWidth && old?.naturalHeight === now?.naturalHeight;
    this.#images.forEach((image) => image.remove());
    this.#images = images;
    images.forEach((image, i) => this.#sides[i].prepend(image));
    if (stay) this.#layOut();
    else this.#fit();
  }

  #say(text) {
    this.#status.textContent = text;
    this.element.classList.toggle("lpnsr-empty", text !== "");
  }

  // Divider

  #moveTo(percent) {
    this.#position = Math.min(Math.max(percent, 0), 100);
    const [left, right] = this.#sides;
    left.style.clipPath = `inset(0 ${100 - this.#position}% 0 0)`;
    right.style.clipPath = `inset(0 0 0 ${this.#position}%)`;
    this.#divider.style.left = `${this.#position}%`;
    this.#divider.ariaValueNow = String(Math.round(this.#position));
    this.#divider.ariaValueText = `${Math.round(this.#position)} % ${this.#labels[0]}`;
  }

  // Zoom

  /** Number of screen pixels that one pixel of the picture covers. */
  get #scale() {
    const { clientWidth, clientHeight } = this.#stage;
    const { naturalWidth, naturalHeight } = this.#images[0];
    return this.#zoom * Math.min(clientWidth / naturalWidth, clientHeight / naturalHeight);
  }

  #fit() {
    this.#zoom = 1;
    this.#layOut();
  }

  /** Zoom by a factor around a point [x, y] of the stage. */
  #zoomBy(factor, [x, y]) {
    const stage = [this.#stage.clientWidth, this.#stage.clientHeight];
    const old = this.#scale;
    this.#zoom = Math.min(Math.max(this.#zoom * factor, 1), MAX_ZOOM);
    [x, y].forEach((place, i) => {
      this.#center[i] += (place - stage[i] / 2) * (1 / old - 1 / this.#scale);
    });
    this.#layOut();
  }

  #panBy(dx, dy) {
    this.#center[0] -= dx / this.#scale;
    this.#center[1] -= dy / this.#scale;
    this.#layOut();
  }

  #layOut() {
    if (!this.#images.length || !this.#stage.clientWidth) return;
    const { naturalWidth, naturalHeight } = this.#images[0];
    const scale = this.#scale;
    const [x, y] = [
      [naturalWidth, this.#stage.clientWidth],
      [naturalHeight, this.#stage.clientHeight],
    ].map(([picture, stage], i) => {
      const margin = Math.min(stage / scale, picture) / 2; // show no more empty space than needed
      this.#center[i] = Math.min(Math.max(this.#center[i], margin), picture - margin);
      return stage / 2 - this.#center[i] * scale;
    });
    for (const image of this.#images) {
      image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
      image.style.imageRendering = scale >= SQUARES_FROM ? "pixelated" : "auto";
    }
    const factor = this.#zoom.toFixed(1);
    const zoom = this.#zoom > 1 ? this.#text(", zoom {factor}", { factor }) : "";
    this.#info.textContent = `${naturalWidth} × ${naturalHeight}${zoom}`;
  }

  // Input

  #listen() {
    const [previous, next, fit, fullScreen] = this.element.querySelectorAll("button");
    const step = (by) => this.#pick((this.#index + by + this.#pairs.length) % this.#pairs.length);
    previous.addEventListener("click", () => step(-1));
    next.addEventListener("click", () => step(1));
    fit.addEventListener("click", () => this.#fit());
    fullScreen.hidden = !document.fullscreenEnabled;
    fullScreen.addEventListener("click", () =>
      document.fullscreenElement ? document.exitFullscreen() : this.element.requestFullscreen(),
    );
    this.element.addEventListener("fullscreenchange", () => {
      const on = document.fullscreenElement === this.element;
      fullScreen.ariaPressed = String(on);
    });
    new ResizeObserver(() => this.#layOut()).observe(this.#stage);

    this.#stage.addEventListener("pointerdown", (event) => this.#press(event));
    this.#stage.addEventListener("pointermove", (event) => this.#drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.#stage.addEventListener(end, (event) => this.#pointers.delete(event.pointerId));
    }
    this.#stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.#stage.addEventListener("dblclick", () => {
      this.#moveTo(this.#before[0]); // undo the divider movement of the two clicks
      this.#fit();
    });
    this.#divider.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Position of a pointer in pixels of the stage, independent of the zoom of the graph. */
  #place({ clientX, clientY }) {
    const { left, top, width, height } = this.#stage.getBoundingClientRect();
    const { clientWidth, clientHeight } = this.#stage;
    return [((clientX - left) / width) * clientWidth, ((clientY - top) / height) * clientHeight];
  }

  #press(event) {
    if (!this.#images.length || event.button > 1) return;
    event.preventDefault(); // no scrolling with the middle button, and no text selection
    this.#divider.focus({ preventScroll: true });
    this.#stage.setPointerCapture(event.pointerId);
    this.#panning = event.button === 1 || event.shiftKey || event.ctrlKey || event.metaKey;
    this.#pointers.set(event.pointerId, this.#place(event));
    this.#before = [this.#before[1], this.#position];
    if (!this.#panning && this.#pointers.size === 1) this.#moveDividerTo(event);
  }

  #drag(event) {
    const old = this.#pointers.get(event.pointerId);
    if (!old || !this.#images.length) return;
    const place = this.#place(event);
    this.#pointers.set(event.pointerId, place);
    const [, other] = [...this.#pointers].find(([id]) => id !== event.pointerId) ?? [];
    if (other) {
      const distance = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
      const middle = place.map((p, i) => (p + other[i]) / 2);
      this.#zoomBy(distance(place) / Math.max(distance(old), 1), middle);
      this.#panBy((place[0] - old[0]) / 2, (place[1] - old[1]) / 2);
    } else if (this.#panning) {
      this.#panBy(place[0] - old[0], place[1] - old[1]);
    } else {
      this.#moveDividerTo(event);
    }
  }

  #moveDividerTo(event) {
    this.#moveTo((100 * this.#place(event)[0]) / this.#stage.clientWidth);
  }

  #wheel(event) {
    if (!this.#images.length) return;
    event.preventDefault();
    event.stopPropagation();
    this.#zoomBy(2 ** (-event.deltaY / 300), this.#place(event));
  }

  #key(event) {
    const middle = [this.#stage.clientWidth / 2, this.#stage.clientHeight / 2];
    const actions = {
      ArrowLeft: () => this.#moveTo(this.#position - STEP),
      ArrowDown: () => this.#moveTo(this.#position - STEP),
      ArrowRight: () => this.#moveTo(this.#position + STEP),
      ArrowUp: () => this.#moveTo(this.#position + STEP),
      PageDown: () => this.#moveTo(this.#position - LARGE_STEP),
      PageUp: () => this.#moveTo(this.#position + LARGE_STEP),
      Home: () => this.#moveTo(0),
      End: () => this.#moveTo(100),
      "+": () => this.#zoomBy(1.25, middle),
      "-": () => this.#zoomBy(0.8, middle),
      0: () => this.#fit(),
    };
    const action = actions[event.key];
    if (!action || !this.#images.length || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // the canvas has its own shortcuts
    action();
  }
}

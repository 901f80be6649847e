// Two versions of a clip in one place, divided by a slider; the mask lies over both.

const PATCH = 16; // pixels of a patch
const MASK_CELL = 16; // pixels of the mask's canvas for a patch

class Viewer {
  constructor(root, onZoom) {
    this.root = root;
    this.split = 0.5;
    this.pictures = {};
    for (const side of ["right", "left"]) { // the left one lies on top and is clipped
      const layer = this.add(root, "layer");
      this.pictures[side] = this.add(layer, "picture");
      this[`${side}Layer`] = layer;
    }
    this.maskPicture = this.add(this.add(root, "layer"), "picture");
    this.mask = this.maskPicture.appendChild(document.createElement("canvas"));
    this.mask.id = "mask-canvas";
    this.mask.hidden = true;
    this.tags = { left: this.add(root, "tag at-left"), right: this.add(root, "tag at-right") };
    this.divider = this.add(root, "divider");
    const attributes = { role: "slider", tabindex: 0, "aria-label": "Divider between left and right",
      "aria-orientation": "horizontal", "aria-valuemin": 0, "aria-valuemax": 100 };
    for (const [name, value] of Object.entries(attributes)) this.divider.setAttribute(name, value);
    this.view = new View((view) => {
      for (const picture of [...Object.values(this.pictures), this.maskPicture]) view.apply(picture);
      root.classList.toggle("zoomed", view.scale > 1);
      onZoom(view);
    });
    attachPointers(root, this.view, (x) => this.setSplit(x));
    this.attachDivider();
    this.setSplit(0.5);
    new ResizeObserver(() => onZoom(this.view)).observe(root);
  }

  add(parent, names) {
    const element = parent.appendChild(document.createElement("div"));
    element.className = names;
    return element;
  }

  attachDivider() {
    const move = (event) => {
      const box = this.root.getBoundingClientRect();
      this.setSplit((event.clientX - box.left) / box.width);
    };
    this.divider.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      this.divider.setPointerCapture(event.pointerId);
      this.divider.onpointermove = move;
    });
    for (const name of ["pointerup", "pointercancel"]) {
      this.divider.addEventListener(name, () => { this.divider.onpointermove = null; });
    }
    this.divider.addEventListener("keydown", (event) => {
      const ends = { Home: 0, End: 1 };
      if (event.key in ends) {
        this.setSplit(ends[event.key]);
        event.preventDefault();
      }
    });
  }

  setSplit(split) {
    this.split = Math.max(0, Math.min(1, split));
    const percent = this.split * 100;
    this.leftLayer.style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
    this.divider.style.left = `${percent}%`;
    this.divider.setAttribute("aria-valuenow", Math.round(percent));
    this.divider.setAttribute("aria-valuetext", `${Math.round(percent)} % of the width shows ${this.tags.left.textContent}`);
  }

  // Gives the frame the shape of the clip: as wide as there is room, as high as the window allows,
  // and small clips not much larger than they are.
  setShape(clip) {
    const aspect = (clip.width * clip.pixel_aspect) / clip.height;
    this.root.style.aspectRatio = aspect;
    this.root.style.maxWidth = `min(${Math.max(480, 2 * clip.width)}px, ${aspect} * max(15rem, 76vh))`;
  }

  show(side, element, name) {
    this.pictures[side].replaceChildren(element);
    this.tags[side].textContent = name;
    this.setSplit(this.split);
  }

  // The width of a line in pixels of the mask's canvas that is at least a pixel of the screen.
  maskLine() {
    const shown = this.mask.getBoundingClientRect().width * devicePixelRatio;
    return shown ? Math.min(MASK_CELL / 2, Math.ceil(this.mask.width / shown)) : 1;
  }

  // Draws the mask of a frame: skipped patches blue, a yellow line around kept ones.
  drawMask(mask, frame, clip) {
    const { rows, columns } = mask;
    const keep = maskAt(mask, frame);
    const context = this.mask.getContext("2d");
    if (this.mask.width !== columns * MASK_CELL || this.mask.height !== rows * MASK_CELL) {
      this.mask.width = columns * MASK_CELL;
      this.mask.height = rows * MASK_CELL;
    }
    this.mask.style.width = `${(columns * PATCH / clip.width) * 100}%`;
    this.mask.style.height = `${(rows * PATCH / clip.height) * 100}%`;
    context.clearRect(0, 0, this.mask.width, this.mask.height);
    const at = (row, column) => keep[row * columns + column];
    context.fillStyle = "rgba(29, 111, 209, 0.5)";
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (!at(row, column)) context.fillRect(column * MASK_CELL, row * MASK_CELL, MASK_CELL, MASK_CELL);
      }
    }
    context.fillStyle = "#ffcc33";
    const line = this.drawnLine = this.maskLine();
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const [x, y] = [column * MASK_CELL, row * MASK_CELL];
        if (row && at(row, column) !== at(row - 1, column)) context.fillRect(x, y, MASK_CELL, line);
        if (column && at(row, column) !== at(row, column - 1)) context.fillRect(x, y, line, MASK_CELL);
      }
    }
  }
}

// The keep mask of a frame as an array of 0 and 1, row by row. Masks begin at the frames `starts`.
function maskAt(mask, frame) {
  let index = 0;
  while (index + 1 < mask.starts.length && mask.starts[index + 1] <= frame) index++;
  mask.decoded ??= [];
  if (!mask.decoded[index]) {
    const bytes = Uint8Array.from(atob(mask.bits[index]), (c) => c.charCodeAt(0));
    const size = mask.rows * mask.columns;
    mask.decoded[index] = Uint8Array.from({ length: size }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
  }
  return mask.decoded[index];
}

// Percent of skipped patches for each frame.
function skippedPercent(mask, frames) {
  return Array.from({ length: frames }, (_, frame) => {
    const keep = maskAt(mask, frame);
    return 100 * (1 - keep.reduce((sum, value) => sum + value, 0) / keep.length);
  });
}

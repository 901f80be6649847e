// Zoom and position of pictures of one size: by buttons, keys, wheel, mouse and touch.

const LARGEST_SCALE = 32;

// The state: a picture of the size 1 x 1 is drawn `scale` times larger, from (x, y) of its frame on.
// Scales below 1 go down to `least`, with the picture in the middle.
class View {
  constructor(onChange) {
    this.onChange = onChange;
    this.least = 1;
    this.reset();
  }

  reset() {
    this.set(1, 0, 0);
  }

  set(scale, x, y) {
    this.scale = this.limited(scale);
    const within = (offset) => (this.scale < 1 ? (1 - this.scale) / 2 : Math.max(1 - this.scale, Math.min(0, offset)));
    this.x = within(x);
    this.y = within(y);
    this.onChange(this);
  }

  limited(scale) {
    return Math.max(Math.min(1, this.least), Math.min(LARGEST_SCALE, scale));
  }

  // Zooms so that the point (x, y) of the frame, both 0 to 1, stays where it is.
  zoomAt(x, y, factor) {
    const scale = this.limited(this.scale * factor);
    const ratio = scale / this.scale;
    this.set(scale, x - (x - this.x) * ratio, y - (y - this.y) * ratio);
  }

  moveBy(x, y) {
    this.set(this.scale, this.x + x, this.y + y);
  }

  apply(picture) {
    picture.style.transform = `translate(${this.x * 100}%, ${this.y * 100}%) scale(${this.scale})`;
  }
}

// Lets pointers and the wheel over `frame` change `view`. `onDrag(x)`, if there is one, gets the
// position of a pointer (0 to 1) that drags a picture which is not zoomed.
function attachPointers(frame, view, onDrag = null) {
  const pointers = new Map();
  const at = (event) => {
    const box = frame.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  };
  const spread = (a, b) => {
    const box = frame.getBoundingClientRect();
    return Math.hypot((a.x - b.x) * box.width, (a.y - b.y) * box.height);
  };

  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, at(event));
    frame.setPointerCapture(event.pointerId);
    if (pointers.size === 1 && view.scale <= 1 && onDrag && event.pointerType !== "touch") onDrag(at(event).x);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = pointers.get(event.pointerId);
    const now = at(event);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    pointers.set(event.pointerId, now);
    if (others.length === 1) {
      const [other] = others;
      view.moveBy((now.x - before.x) / 2, (now.y - before.y) / 2);
      const factor = spread(now, other) / Math.max(1, spread(before, other));
      view.zoomAt((now.x + other.x) / 2, (now.y + other.y) / 2, factor);
    } else if (view.scale > 1) {
      view.moveBy(now.x - before.x, now.y - before.y);
    } else if (onDrag) {
      onDrag(now.x);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    frame.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  frame.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && !frame.contains(document.activeElement)) return;
    event.preventDefault();
    const point = at(event);
    view.zoomAt(point.x, point.y, Math.exp(-event.deltaY / (event.deltaMode ? 10 : 400)));
  }, { passive: false });
}

// Whether a key that was pressed belongs to a control that uses it itself.
function keyIsTaken(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return true;
  const target = event.target;
  if (target.matches("input[type=text], textarea, select")) return true;
  if (event.key === " ") return target.matches("button, summary, a, input[type=checkbox]");
  return event.key.startsWith("Arrow") && target.matches("input");
}

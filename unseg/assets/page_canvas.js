// The drawing surface: marks are kept in pixels of the picture and sent as JSON; the server answers
// with the mask. Runs once per page with gradio's `element`, `props`, `trigger` and `watch`.
const view = element.querySelector(".unseg-view");
const picture = element.querySelector(".unseg-picture");
const layer = element.querySelector(".unseg-layer");
const canvas = element.querySelector("canvas");
const hint = element.querySelector(".unseg-hint");
const help = element.querySelector(".unseg-help");
const size = element.querySelector(".unseg-brush input");
const toolbar = element.querySelector(".unseg-tools");
const brush = element.querySelector(".unseg-brush");
const vacant = element.querySelector(".unseg-empty");
const tools = [...element.querySelectorAll("[data-tool]")];
const HINTS = {
  add: "Click the object. By keyboard: Tab to the picture, move the cross with the arrow keys, press Enter.",
  remove: "Click beside the object, where the mask is too large.",
  box: "Drag a box around the object, or click two opposite corners.",
  brush: "Brush over the object. Keyboard: Enter lowers and lifts the brush.",
  eraser: "Brush over what the mask should not cover.",
};
let key = null, width = 1, height = 1, serial = 0, tool = "add";
let marks = empty(), order = [], cross = null, draft = null, usesKeys = false;

function empty() { return { points: [], boxes: [], strokes: [] }; }
function isBrush() { return tool === "brush" || tool === "eraser"; }
function radius() { return Math.max(1, (Number(size.value) / 200) * Math.max(width, height)); }
function clip(value, length) { return Math.min(Math.max(value, 0), length - 1); }
function tidy(value) { return Math.round(value * 10) / 10; }

function show(isThere) {
  view.hidden = toolbar.hidden = help.hidden = !isThere;
  vacant.hidden = isThere;
}

function choose(name) {
  tool = name;
  draft = null;
  for (const button of tools) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  hint.textContent = HINTS[name];
  brush.hidden = !isBrush();
  draw();
}

function at(event) {
  const frame = canvas.getBoundingClientRect();
  return [
    tidy(clip(((event.clientX - frame.left) / frame.width) * width, width)),
    tidy(clip(((event.clientY - frame.top) / frame.height) * height, height)),
  ];
}

function send() {
  serial += 1;
  layer.classList.add("unseg-old");
  draw();
  tell();
  trigger("input");
}

function tell() { props.value = JSON.stringify({ picture: key, serial, marks }); }

function add(kind, mark) {
  marks[kind].push(mark);
  order.push(kind);
  draft = null;
  send();
}

function press(point) {
  if (key === null) return;
  if (tool === "add" || tool === "remove") {
    add("points", [...point, tool === "add" ? 1 : 0]);
  } else if (tool === "box") {
    if (draft) finishBox(point);
    else draft = { start: point, end: point };
  } else {
    draft = { radius: tidy(radius()), erase: tool === "eraser", path: [point] };
  }
  draw();
}

function move(point) {
  if (!draft) return;
  if (draft.path) {
    const last = draft.path[draft.path.length - 1];
    const step = Math.max(width, height) / 500;
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= step) draft.path.push(point);
  } else {
    draft.end = point;
  }
  draw();
}

function finishBox(point) {
  add("boxes", [
    Math.min(draft.start[0], point[0]), Math.min(draft.start[1], point[1]),
    Math.max(draft.start[0], point[0]), Math.max(draft.start[1], point[1]),
  ]);
}

function release(point) {
  if (!draft) return;
  if (draft.path) {
    add("strokes", draft);
  } else {
    const far = Math.hypot(point[0] - draft.start[0], point[1] - draft.start[1]);
    // A box that was clicked, not dragged, waits for its other corner.
    if (far > Math.max(width, height) / 100) finishBox(point);
  }
}

function undo() {
  if (draft) { draft = null; draw(); return; }
  const kind = order.pop();
  if (!kind) return;
  marks[kind].pop();
  // Points beside the object mean nothing without one on it.
  if (!marks.points.some((p) => p[2])) {
    marks.points = [];
    order = order.filter((name) => name !== "points");
  }
  send();
}

function clear() {
  marks = empty();
  order = [];
  draft = null;
  if (key !== null) send();
}

function draw() {
  const frame = canvas.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(frame.width * ratio));
  canvas.height = Math.max(1, Math.round(frame.height * ratio));
  const scale = canvas.width / width;
  const pen = canvas.getContext("2d");
  const strokes = draft && draft.path ? [draft] : [];
  const outline = (paint) => {
    pen.lineWidth = 4 * ratio; pen.strokeStyle = "#fff"; paint(); pen.stroke();
    pen.lineWidth = 2 * ratio; pen.strokeStyle = "#1d4ed8"; paint(); pen.stroke();
  };
  for (const stroke of strokes) {
    pen.lineCap = pen.lineJoin = "round";
    pen.lineWidth = 2 * stroke.radius * scale;
    pen.strokeStyle = stroke.erase ? "rgba(220,38,38,0.45)" : "rgba(37,99,235,0.45)";
    pen.beginPath();
    pen.moveTo(stroke.path[0][0] * scale, stroke.path[0][1] * scale);
    for (const [x, y] of stroke.path) pen.lineTo(x * scale + 0.01, y * scale);
    pen.stroke();
  }
  const boxes = [...marks.boxes];
  if (draft && draft.start) boxes.push([...draft.start, ...draft.end]);
  for (const [x0, y0, x1, y1] of boxes) {
    outline(() => {
      pen.beginPath();
      pen.rect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
    });
  }
  for (const [x, y, label] of marks.points) {
    pen.beginPath();
    pen.arc(x * scale, y * scale, 6 * ratio, 0, 2 * Math.PI);
    pen.fillStyle = label ? "#16a34a" : "#dc2626";
    pen.fill();
    pen.lineWidth = 2 * ratio; pen.strokeStyle = "#fff"; pen.stroke();
    pen.beginPath();
    pen.moveTo((x * scale) - 3 * ratio, y * scale); pen.lineTo((x * scale) + 3 * ratio, y * scale);
    if (label) { pen.moveTo(x * scale, (y * scale) - 3 * ratio); pen.lineTo(x * scale, (y * scale) + 3 * ratio); }
    pen.stroke();
  }
  if (cross && usesKeys && document.activeElement === canvas) {
    const reach = (isBrush() ? radius() * scale : 10 * ratio);
    outline(() => {
      pen.beginPath();
      pen.moveTo(cross[0] * scale - reach, cross[1] * scale); pen.lineTo(cross[0] * scale + reach, cross[1] * scale);
      pen.moveTo(cross[0] * scale, cross[1] * scale - reach); pen.lineTo(cross[0] * scale, cross[1] * scale + reach);
    });
  }
}

function take() {
  let answer = null;
  try { answer = JSON.parse(props.value || "{}"); } catch (error) { return; }
  if (answer.image) {
    key = answer.picture; width = answer.width; height = answer.height; serial = 0;
    marks = answer.marks;
    order = Object.keys(marks).flatMap((kind) => marks[kind].map(() => kind));
    cross = [width / 2, height / 2]; draft = null;
    // A tiny picture is enlarged: fingers and cursors do not shrink.
    const longer = Math.max(width, height);
    picture.style.width = longer < 280 ? Math.max(1, Math.round((280 * width) / longer)) + "px" : "";
    picture.src = answer.image;
    picture.alt = "Your picture " + key;
    show(true);
    cover(answer);
    tell(); // marks are read from here when the picture is protected, without the view
  } else if (answer.picture === null) {
    key = null; marks = empty(); order = []; show(false);
  } // else it is what was sent from here
  draw();
}

function cover(answer) {
  if (answer.picture !== key || answer.serial !== serial) return; // of older marks
  layer.classList.remove("unseg-old");
  layer.hidden = !answer.mask;
  if (answer.mask) layer.src = answer.mask;
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  usesKeys = false;
  canvas.setPointerCapture(event.pointerId);
  press(at(event));
});
canvas.addEventListener("pointermove", (event) => move(at(event)));
canvas.addEventListener("pointerup", (event) => release(at(event)));
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (key === null) return;
  usesKeys = true;
  if (steps[event.key]) {
    const far = Math.max(width, height) / (event.shiftKey ? 200 : 40);
    cross = [clip(cross[0] + steps[event.key][0] * far, width), clip(cross[1] + steps[event.key][1] * far, height)].map(tidy);
    move(cross);
  } else if (event.key === "Enter" || event.key === " ") {
    if (draft && draft.path) release(cross);
    else press([...cross]);
  } else if (event.key === "Backspace" || event.key === "Delete") {
    undo();
  } else if (event.key === "Escape") {
    draft = null;
  } else {
    return;
  }
  event.preventDefault();
  draw();
});
canvas.addEventListener("focus", () => { usesKeys = canvas.matches(":focus-visible"); draw(); });
canvas.addEventListener("blur", draw);
for (const button of tools) button.addEventListener("click", () => choose(button.dataset.tool));
element.querySelector("[data-do=undo]").addEventListener("click", undo);
element.querySelector("[data-do=clear]").addEventListener("click", clear);
new ResizeObserver(draw).observe(canvas);
picture.addEventListener("load", draw);
element.addEventListener("unseg-mask", (event) => cover(event.detail));
watch("value", take);
choose(tool);
take();

// Before and after with a movable line; a plain range input, so that keys move it too.
const result = element.querySelector(".unseg-result");
const pair = element.querySelector(".unseg-pair");
const before = element.querySelector(".unseg-before");
const line = element.querySelector(".unseg-line");
const range = element.querySelector("input");

function place() {
  before.style.clipPath = "inset(0 " + (100 - range.value) + "% 0 0)";
  line.style.left = range.value + "%";
}

function take() {
  let value = {};
  try { value = JSON.parse(props.value || "{}"); } catch (error) { value = {}; }
  result.hidden = !value.after;
  if (!value.after) return;
  for (const name of ["before", "after", "noise"]) element.querySelector(".unseg-" + name).src = value[name];
}

function drag(event) {
  if (event.type === "pointermove" && !event.buttons) return;
  const frame = pair.getBoundingClientRect();
  range.value = String(Math.round((100 * (event.clientX - frame.left)) / frame.width));
  place();
}

range.addEventListener("input", place);
pair.addEventListener("pointerdown", drag);
pair.addEventListener("pointermove", drag);
watch("value", take);
place();
take();

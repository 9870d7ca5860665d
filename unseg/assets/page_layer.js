// The server's answers to marks, handed on to the drawing surface.
watch("value", () => {
  let answer = null;
  try { answer = JSON.parse(props.value || "{}"); } catch (error) { return; }
  const view = document.querySelector("#unseg-canvas .unseg-view");
  if (view) view.dispatchEvent(new CustomEvent("unseg-mask", { detail: answer, bubbles: true }));
});

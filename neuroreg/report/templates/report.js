"use strict";
(() => {
  const root = document.documentElement;
  const stage = document.getElementById("compare");
  const said = document.getElementById("said");
  const square = document.getElementById("square");
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const names = { flicker: "flicker", checker: "checkerboard", moved: "moving image", fixed: "fixed image",
    scanned: "as scanned", before: "after the affine", after: "at the end" };
  root.classList.add("scripted");
  stage.dataset.outlines = "off";

  const choose = (group, value) => {
    const field = document.querySelector(`input[name="${group}"][value="${value}"]`);
    if (field) { field.checked = true; apply(group, value); }
  };
  const apply = (group, value) => {
    stage.dataset[group] = value;
    if (group === "mode" && value !== "flicker") { stage.dataset.running = "no"; }
    said.textContent = `${names[stage.dataset.mode]}, moving image ${names[stage.dataset.stage === "moved" ? "after" : stage.dataset.stage]}`;
  };
  const outlines = (on) => {
    stage.dataset.outlines = on ? "on" : "off";
    document.getElementById("outlines").checked = on;
    said.textContent = on ? "outlines of the fixed image on" : "outlines off";
  };
  const flicker = () => {
    if (calm.matches) { choose("mode", stage.dataset.mode === "fixed" ? "moved" : "fixed"); return; }
    if (stage.dataset.mode !== "flicker") { choose("mode", "flicker"); stage.dataset.running = "yes"; }
    else { stage.dataset.running = stage.dataset.running === "yes" ? "no" : "yes"; }
    said.textContent = stage.dataset.running === "yes" ? "flicker on" : "flicker off";
  };
  const size = () => {
    for (const frame of stage.querySelectorAll(".frame")) {
      const pixel = frame.clientWidth / Number(frame.dataset.width);
      frame.style.setProperty("--square", `${Number(square.value) / Number(frame.dataset.mm) * pixel}px`);
    }
    document.getElementById("square-mm").textContent = `${square.value} mm`;
  };

  for (const field of stage.querySelectorAll("input[type=radio]")) {
    field.addEventListener("change", () => apply(field.name, field.value));
  }
  document.getElementById("outlines").addEventListener("change", (event) => outlines(event.target.checked));
  square.addEventListener("input", () => { choose("mode", "checker"); size(); });
  window.addEventListener("resize", size);
  size();

  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) { part.open = true; }
  });

  const stages = ["scanned", "before", "moved"];
  const keys = {
    f: flicker, c: () => choose("mode", "checker"), m: () => choose("mode", "moved"), x: () => choose("mode", "fixed"),
    o: () => outlines(stage.dataset.outlines !== "on"),
    b: () => choose("stage", stages[(stages.indexOf(stage.dataset.stage) + 1) % stages.length]),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    const act = keys[event.key.toLowerCase()];
    if (act) { act(); event.preventDefault(); }
  });
})();

"use strict";
(function () {
  const FLICKER_MS = 600; // each image is shown for so long: far below three flashes a second
  const STEP_MM = 10; // an arrow key with Shift
  const VIEWS = [
    { name: "All", type: 3 }, { name: "Axial", type: 0 }, { name: "Coronal", type: 1 },
    { name: "Sagittal", type: 2 }, { name: "3-D", type: 4 },
  ];
  const CUTS = [
    ["nowhere", 2, 0, 0], ["from the left", 0, 270, 0], ["from the right", 0, 90, 0], ["from the front", 0, 180, 0],
    ["from behind", 0, 0, 0], ["from above", 0, 0, 90], ["from below", 0, 0, -90],
  ];
  const DEFAULTS = {
    fixed: [true, 100], moved: [false, 100], jacobian: [false, 40], folds: [true, 100],
    fixed_labels: [false, 50], moved_labels: [false, 50],
  };
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const layers = data.layers.map((layer) => ({ ...layer, image: null, codes: null, on: true, opacity: 100 }));
  const state = { frame: null, flicker: null, showMoved: false, swapped: false, mm: data.centre, typed: false };
  let viewer = null;

  function element(tag, text, attributes) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    return made;
  }

  function say(text) {
    byId("message").textContent = text;
    byId("message").hidden = !text;
  }

  async function unpack(base64) {
    const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // Colours

  function colourMap(layer) {
    const all = [...Array(256).keys()];
    if (layer.kind === "jacobian") {
      const channel = (k) => data.colours.map((colour, code) => (code ? colour[k] : 0));
      return { R: channel(0), G: channel(1), B: channel(2), A: all.map((code) => (code ? 255 : 0)), I: all };
    }
    // Soft at the dark end, so that the 3-D view sees the brain through its background.
    return { R: all, G: all, B: all, A: all.map((code) => Math.min(255, code * 2)), I: all };
  }

  function labelMap(layer) {
    const regions = layer.kind === "folds" ? [{ colour: [0, 200, 60] }] : data.regions;
    const channel = (k) => [0, ...regions.map((region) => region.colour[k])];
    return { R: channel(0), G: channel(1), B: channel(2), A: channel(0).map((_, code) => (code ? 255 : 0)) };
  }

  // Loading

  async function load() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      throw new Error("this browser does not draw in 3-D (WebGL 2 is switched off or missing)");
    }
    viewer = new niivue.Niivue({
      logLevel: "error", dragAndDropEnabled: false, isRadiologicalConvention: true, sagittalNoseLeft: true,
      isOrientationTextVisible: true, showAllOrientationMarkers: true, fontColor: [1, 1, 1, 1], fontMinPx: 15,
      crosshairColor: [1, 0.84, 0.04, 1], crosshairWidth: 0.7, crosshairWidthUnit: "mm", show3Dcrosshair: true, isOrientCube: data.render,
      backColor: [0, 0, 0, 1], multiplanarShowRender: data.render ? 1 : 0, multiplanarLayout: data.render ? 2 : 0,
      loadingText: "", tileMargin: 3, renderOverlayBlend: 0.4,
      clipPlaneColor: [0, 0, 0, 0], isClipAllVolumes: true,
    });
    await viewer.attachToCanvas(byId("canvas"));
    for (const layer of layers) {
      const buffer = await unpack(layer.nifti);
      layer.nifti = null;
      const labels = layer.kind === "labels" || layer.kind === "folds";
      const map = `neuroreg-${layer.kind}`;
      if (!labels) viewer.addColormap(map, colourMap(layer));
      const image = await niivue.NVImage.new(buffer, `${layer.key}.nii`, labels ? "gray" : map, 1, null, 0, 255);
      image.colorbarVisible = false;
      if (labels) image.setColormapLabel(labelMap(layer));
      const [on, opacity] = DEFAULTS[layer.key];
      Object.assign(layer, { on, opacity, image, codes: image.img });
    }
    viewer.onLocationChange = (place) => arrive([place.mm[0], place.mm[1], place.mm[2]]);
    // The file is in the order right, front, up: a reader that turned it would show the wrong side.
    const seen = layers[0].image;
    if (seen.dimsRAS.slice(1, 4).some((n, k) => n !== data.grid.size[k])) throw new Error("the grid was not kept");
  }

  // Layers

  function pairing() {
    return Boolean(state.flicker || state.swapped);
  }

  function opacityOf(layer) {
    const pair = layer.key === "fixed" || layer.key === "moved";
    if (pair && pairing()) return (layer.key === "moved") === state.showMoved ? 1 : 0;
    if (!layer.on || !layer.opacity) return 0;
    // Outlines have an opacity of their own; the rest of the label is left almost clear.
    return layer.kind === "labels" && byId("outlines").checked ? 0.004 : layer.opacity / 100;
  }

  function redraw() {
    const flag = byId("flag");
    flag.hidden = !pairing();
    flag.textContent = state.showMoved ? "moved" : "fixed";
    if (state.frame) return;
    state.frame = requestAnimationFrame(() => { state.frame = null; paint(); });
  }

  // Every volume handed over goes to the graphics card anew, so only those that can be seen are. The first is the one
  // that the 3-D view gives a surface; all lie on one grid, so any can be it.
  function paint() {
    for (const layer of layers) layer.image.opacity = opacityOf(layer);
    const first = layers.find((layer) => layer.key === (pairing() && state.showMoved ? "moved" : "fixed"));
    const others = layers.filter((layer) => layer !== first && layer.image.opacity > 0);
    viewer.volumes = [first, ...others].map((layer) => layer.image);
    [viewer.back, viewer.overlays] = [viewer.volumes[0], viewer.volumes.slice(1)];
    const outlined = layers.filter((layer) => layer.kind === "labels" && layer.on).map((layer) => layer.opacity / 100);
    viewer.opts.atlasOutline = byId("outlines").checked ? Math.max(0, ...outlined) : 0;
    viewer.updateGLVolume();
  }

  function flicker() {
    if (state.flicker) {
      clearInterval(state.flicker);
      Object.assign(state, { flicker: null, swapped: false, showMoved: false });
    } else {
      state.flicker = setInterval(() => { state.showMoved = !state.showMoved; redraw(); }, FLICKER_MS);
      state.showMoved = true;
    }
    byId("flicker").setAttribute("aria-pressed", String(Boolean(state.flicker)));
    redraw();
  }

  function swap() {
    if (state.flicker) flicker();
    state.showMoved = !state.showMoved;
    state.swapped = state.showMoved;
    redraw();
    byId("live").textContent = state.showMoved ? "Showing the moved image" : "Showing the fixed image";
  }

  function wireLayers() {
    for (const layer of layers) {
      const on = byId(`on-${layer.key}`), opacity = byId(`opacity-${layer.key}`);
      on.checked = layer.on;
      opacity.value = String(layer.opacity);
      on.addEventListener("change", () => { layer.on = on.checked; redraw(); });
      opacity.addEventListener("input", () => { layer.opacity = Number(opacity.value); redraw(); });
    }
    const both = layers.some((layer) => layer.key === "moved");
    for (const id of ["flicker", "swap"]) byId(id).disabled = !both;
    byId("flicker").addEventListener("click", flicker);
    byId("swap").addEventListener("click", swap);
    const outlines = byId("outlines");
    outlines.closest("label").hidden = !layers.some((layer) => layer.kind === "labels");
    outlines.addEventListener("change", redraw);
    const scale = byId("scale");
    if (scale) {
      const reach = 127 / data.octaves;
      const stops = [-1, -0.5, 0, 0.5, 1].map((t) => `rgb(${data.colours[Math.round(128 + t * reach)].join(",")})`);
      scale.style.background = `linear-gradient(to right, ${stops.join(",")})`;
    }
  }

  // Place

  function voxelAt(mm) {
    const { size, origin, spacing } = data.grid;
    const [x, y, z] = [0, 1, 2].map((k) => Math.round((mm[k] - origin[k]) / spacing));
    const inside = [x, y, z].every((index, k) => index >= 0 && index < size[k]);
    return inside ? x + size[0] * (y + size[1] * z) : -1;
  }

  function valueOf(layer, voxel) {
    const code = voxel < 0 ? null : layer.codes[voxel];
    if (code === null || code === undefined) return { text: "outside" };
    if (layer.kind === "labels") {
      const region = code ? data.regions[code - 1] : null;
      if (!region) return { text: "none" };
      return { text: region.name ? `${region.name} (${region.label})` : String(region.label), colour: region.colour };
    }
    if (layer.kind === "folds") return { text: code ? "yes" : "no" };
    if (layer.kind === "jacobian") {
      if (!code) return { text: "outside the head" };
      const determinant = 2 ** ((code - 128) / 127 * data.octaves);
      const sign = code === 1 ? "≤ " : code === 255 ? "≥ " : "";
      return { text: `${sign}${determinant.toFixed(2)} (${determinant < 1 ? "" : "+"}${Math.round(100 * (determinant - 1))} %)` };
    }
    const value = layer.low + code / 255 * (layer.high - layer.low);
    const sign = code === 255 ? "≥ " : code === 0 ? "≤ " : "";
    return { text: sign + Number(value.toPrecision(3)) };
  }


  function side(mm) {
    const names = [["left", "right"], ["posterior", "anterior"], ["inferior", "superior"]];
    return mm.map((value, k) => `${Math.abs(value).toFixed(1)} mm ${names[k][value >= 0 ? 1 : 0]}`).join(", ");
  }

  function arrive(mm) {
    state.mm = mm;
    const lps = [-mm[0], -mm[1], mm[2]];
    ["x", "y", "z"].forEach((id, k) => {
      if (document.activeElement !== byId(id)) byId(id).value = (Math.round(lps[k] * 10) / 10 + 0).toFixed(1);
    });
    byId("ras").textContent = mm.map((value) => (Math.round(value * 10) / 10 + 0).toFixed(1)).join(", ");
    const voxel = voxelAt(mm), body = byId("values").tBodies[0];
    body.replaceChildren(...layers.map((layer) => {
      const row = element("tr"), cell = element("td"), { text, colour } = valueOf(layer, voxel);
      if (colour) {
        const swatch = element("span", "", { class: "swatch" });
        swatch.style.background = `rgb(${colour.join(",")})`;
        cell.append(swatch);
      }
      cell.append(text);
      row.append(element("th", layer.title, { scope: "row" }), cell);
      return row;
    }));
    if (state.typed) {
      const values = layers.map((layer) => `${layer.title} ${valueOf(layer, voxel).text}`);
      byId("live").textContent = `${side(mm)}. ${values.join("; ")}`;
      state.typed = false;
    }
  }

  function goTo(mm) {
    const { size, origin, spacing } = data.grid;
    const kept = mm.map((value, k) => Math.min(Math.max(value, origin[k]), origin[k] + (size[k] - 1) * spacing));
    state.typed = true;
    viewer.scene.crosshairPos = viewer.mm2frac(kept);
    viewer.drawScene();
    arrive(kept);
  }

  function wirePlaces() {
    byId("place").addEventListener("submit", (event) => {
      event.preventDefault();
      const lps = ["x", "y", "z"].map((id) => Number(byId(id).value));
      if (lps.every(Number.isFinite)) goTo([-lps[0], -lps[1], lps[2]]);
    });
    for (const { title, ras } of [{ title: "Middle", ras: data.centre }, ...data.places]) {
      const button = element("button", title, { type: "button" });
      button.addEventListener("click", () => goTo(ras));
      byId("jumps").append(button);
    }
  }

  // Views

  function show(number) {
    if (number === 4 && !data.render) return;
    viewer.setSliceType(VIEWS[number].type);
    [...byId("views").children].forEach((button, k) => button.setAttribute("aria-pressed", String(k === number)));
  }

  function convention(radiological) {
    viewer.opts.isRadiologicalConvention = radiological;
    viewer.drawScene();
    byId("radiological").checked = radiological;
    byId("convention").textContent = radiological
      ? "Radiological view: the patient's right (R) is on the left of axial and coronal pictures."
      : "Neurological view: the patient's left (L) is on the left of axial and coronal pictures.";
  }

  function wireViews() {
    VIEWS.forEach((view, number) => {
      const button = element("button", view.name, { type: "button", "aria-pressed": "false", "aria-keyshortcuts": String(number + 1) });
      button.addEventListener("click", () => show(number));
      button.hidden = number === 4 && !data.render;
      byId("views").append(button);
    });
    byId("radiological").addEventListener("change", (event) => convention(event.target.checked));
    byId("cut-row").hidden = !data.render;
    CUTS.forEach(([name], k) => byId("cut").append(element("option", name, { value: String(k) })));
    byId("cut").addEventListener("change", (event) => viewer.setClipPlane(CUTS[Number(event.target.value)].slice(1)));
  }

  // Keys: the arrows only on the picture, the letters wherever nothing is being typed.

  function move(axis, direction, far) {
    const mm = [...state.mm];
    mm[axis] += direction * (far ? STEP_MM : data.grid.spacing);
    goTo(mm);
  }

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const picture = event.target === byId("canvas");
    if (!picture && /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox") return;
    const across = viewer.opts.isRadiologicalConvention ? -1 : 1;
    const arrows = {
      ArrowLeft: [0, -across], ArrowRight: [0, across], ArrowUp: [1, 1], ArrowDown: [1, -1],
      PageUp: [2, 1], PageDown: [2, -1],
    };
    const letters = { f: flicker, s: swap, r: () => convention(!viewer.opts.isRadiologicalConvention) };
    const letter = event.key.toLowerCase();
    if (picture && arrows[event.key]) move(...arrows[event.key], event.shiftKey);
    else if (letters[letter] && !(letter !== "r" && byId("flicker").disabled)) letters[letter]();
    else if (/^[1-5]$/.test(event.key)) show(Number(event.key) - 1);
    else {
      if (picture && event.key.length === 1) event.stopPropagation();
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  async function start() {
    try {
      await load();
      wireLayers();
      wirePlaces();
      wireViews();
      paint();
      viewer.scene.crosshairPos = viewer.mm2frac(data.centre);
      arrive(data.centre);
      convention(true);
      show(0);
      document.addEventListener("keydown", onKey, true);
      say("");
      document.documentElement.dataset.ready = "yes";
    } catch (error) {
      say(`The images cannot be shown: ${error.message}`);
      document.documentElement.dataset.ready = "no";
    }
  }

  start();
})();

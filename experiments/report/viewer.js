// The viewer: one row of implicit attention over the frames of a clip, from the numbers packed into this page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  if (!data.models.length) return;
  const part = (name) => document.getElementById("viewer-" + name);
  const CELL = 24; // Pixels of a patch in a canvas, which the page scales.
  const GAP = 6; // Between a frame's picture and its weights.

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const shares = (text) => {
    const view = new DataView(bytes(text).buffer);
    return Float64Array.from({ length: view.byteLength / 2 }, (_, i) => view.getUint16(2 * i, true) / 65535);
  };
  const percent = (share) => {
    const number = 100 * share;
    const digits = number >= 9.95 || number === 0 ? 1 : number >= 0.1 ? 2 : 4;
    return number.toFixed(digits) + "\u00a0%";
  };
  const colours = bytes(data.colours);
  const colour = (level) => `rgb(${colours.subarray(3 * level, 3 * level + 3).join(",")})`;

  // What the reader asked for, kept where a model or clip does not have it; `now` is what is shown instead.
  const wanted = { setting: "", model: "paper", clip: "", layer: "", direction: "backward", anchor: "" };
  const now = {};

  function offer(name, options, fallback) {
    const has = (value) => options.some(([key]) => String(key) === String(value));
    const value = has(wanted[name]) ? wanted[name] : (fallback ?? options[0][0]);
    part(name).replaceChildren(...options.map(([key, text]) => new Option(text, key)));
    part(name).value = value;
    return String(value);
  }

  function choose() {
    const settings = [...new Set(data.models.map((m) => m.setting))];
    const setting = offer("setting", settings.map((s) => [s, s]));
    const models = data.models.filter((m) => m.setting === setting);
    const model = offer("model", models.map((m) => [m.variant, m.name]));
    now.model = models.find((m) => m.variant === model);
    const clips = now.model.clips.map((c) => [c.clip, `${data.clips[c.clip].name} (${data.clips[c.clip].label})`]);
    const clip = offer("clip", clips);
    now.shown = now.model.clips.find((c) => String(c.clip) === clip);
    now.clip = data.clips[now.shown.clip];
    const layers = Object.keys(now.shown.layers);
    const layer = offer("layer", layers.map((l) => [l, l]), layers.at(-1));
    const direction = offer("direction", now.model.directions.map((d) => [d, d]));
    const tokens = [...Array(now.model.tokens).keys()].sort((a, b) => isClass(b) - isClass(a) || a - b);
    now.anchor = Number(offer("anchor", tokens.map((t) => [t, place(t)])));
    const packed = now.shown.layers[layer][direction];
    now.keys = packed.keys;
    now.weights = bytes(packed.weights);
    now.peaks = shares(packed.peaks);
    now.shares = shares(packed.shares);
    now.pixels = bytes(now.clip.pixels);
  }

  // Tokens and patches: class tokens are no patch, and shift those after them.
  const isClass = (token) => now.model.classTokens.includes(token);
  const patchOf = (token) => token - now.model.classTokens.filter((c) => c < token).length;
  const tokenOf = (patch) => now.model.classTokens.reduce((token, c) => token + (c <= token), patch);
  const perFrame = () => now.model.rows * now.model.columns;

  function place(token) {
    if (isClass(token)) return "class token";
    const patch = patchOf(token);
    const inside = patch % perFrame();
    const [row, column] = [Math.floor(inside / now.model.columns), inside % now.model.columns];
    return `frame ${Math.floor(patch / perFrame())}, row ${row}, column ${column}`;
  }

  // The anchor's row as levels, a byte a key. Keys that a scan cannot see are not stored.
  function anchorRow() {
    const [i, L] = [now.anchor, now.model.tokens];
    const [begin, first, count] = {
      all: [i * L, 0, L],
      lower: [(i * (i + 1)) / 2, 0, i + 1],
      upper: [i * L - (i * (i - 1)) / 2, i, L - i],
    }[now.keys];
    const row = new Uint8Array(L);
    row.set(now.weights.subarray(begin, begin + count), first);
    return row;
  }

  const logarithmic = () => part("scale").value === "log";
  const ofPeak = (level) => (level ? 10 ** ((-data.decades * (255 - level)) / 254) : 0);
  const shade = (level) => (logarithmic() ? level : Math.round(255 * ofPeak(level)));

  function picture(frame) {
    const { width, height, frames } = now.clip;
    const start = Math.floor((frame * frames) / now.model.frames) * width * height;
    const image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      image.data.set(now.pixels.subarray(3 * (start + i), 3 * (start + i) + 3), 4 * i);
      image.data[4 * i + 3] = 255;
    }
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height }).getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  // One token's weight, and a frame around the anchor there and at `above`, where its patch is in the picture.
  function drawToken(pen, token, level, x, y, above) {
    pen.fillStyle = colour(shade(level));
    pen.fillRect(x, y, CELL, CELL);
    if (token !== now.anchor) return;
    for (const top of above === null ? [y] : [above, y])
      for (const [ink, inset] of [["#000", 1], ["#fff", 3]]) {
        Object.assign(pen, { strokeStyle: ink, lineWidth: 2 });
        pen.strokeRect(x + inset, top + inset, CELL - 2 * inset, CELL - 2 * inset);
      }
  }

  function drawFrame(canvas, frame, row) {
    const { rows, columns } = now.model;
    canvas.width = columns * CELL;
    canvas.height = 2 * rows * CELL + GAP;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(picture(frame), 0, 0, columns * CELL, rows * CELL);
    for (let inside = 0; inside < perFrame(); inside++) {
      const token = tokenOf(frame * perFrame() + inside);
      const [x, y] = [(inside % columns) * CELL, Math.floor(inside / columns) * CELL];
      drawToken(pen, token, row[token], x, y + rows * CELL + GAP, y);
    }
  }

  function drawClass(canvas, token, row) {
    const { rows, columns } = now.model;
    canvas.width = columns * CELL;
    canvas.height = 2 * rows * CELL + GAP;
    drawToken(canvas.getContext("2d"), token, row[token], 0, rows * CELL + GAP, null);
  }

  function drawLegend(peak) {
    const pen = part("legend").getContext("2d");
    for (let x = 0; x < 256; x++) {
      pen.fillStyle = colour(x);
      pen.fillRect(x, 0, 1, 16);
    }
    const least = logarithmic() ? `${percent(peak / 10 ** data.decades)} or less` : "0";
    part("least").textContent = least;
    part("most").textContent = `${percent(peak)} of the row, on one token`;
  }

  function draw() {
    choose();
    const row = anchorRow();
    const { frames, classTokens } = now.model;
    const width = frames + classTokens.length;
    const toEach = now.shares.subarray(now.anchor * width, (now.anchor + 1) * width);
    const peak = now.peaks[now.anchor];
    // A tile each: class tokens first, as most models have them, then frames.
    const shown = [
      ...classTokens.map((token, c) => ["class", toEach[frames + c], (to) => drawClass(to, token, row)]),
      ...Array.from({ length: frames }, (_, t) => [`frame ${t}`, toEach[t], (to) => drawFrame(to, t, row)]),
    ];
    const tiles = part("frames");
    while (tiles.children.length > shown.length) tiles.lastChild.remove();
    while (tiles.children.length < shown.length)
      tiles.append(document.getElementById("viewer-tile").content.cloneNode(true));
    shown.forEach(([name, share, drawOn], at) => {
      const tile = tiles.children[at];
      const canvas = tile.querySelector("canvas");
      drawOn(canvas);
      canvas.setAttribute("aria-label", `${name}: ${percent(share)} of the row`);
      tile.querySelector(".name").textContent = name;
      tile.querySelector(".share").textContent = percent(share);
      tile.querySelector(".bar").style.width = `${100 * share}%`;
    });
    drawLegend(peak);
    const list = shown.map(([name, share]) => `${name} ${percent(share)}`).join(", ");
    part("row").textContent = peak
      ? `The row of the anchor, ${place(now.anchor)}, gives: ${list}.`
      : `The row of the anchor, ${place(now.anchor)}, has no weight in this direction.`;
    const right = now.shown.prediction === now.clip.label ? "right" : "wrong";
    part("said").textContent =
      `Label: ${now.clip.label}. This model says: ${now.shown.prediction} (${right}). Cell ${now.model.cell}.`;
  }

  function moveTo(token) {
    wanted.anchor = Math.min(Math.max(token, 0), now.model.tokens - 1);
    draw();
  }

  for (const name of Object.keys(wanted))
    part(name).addEventListener("change", (event) => {
      wanted[name] = event.target.value;
      draw();
    });
  part("scale").addEventListener("change", draw);

  part("frames").addEventListener("click", (event) => {
    const canvas = event.target.closest("canvas");
    if (!canvas) return;
    const box = canvas.getBoundingClientRect();
    const { rows, columns } = now.model;
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    const down = ((event.clientY - box.top) / box.height) * canvas.height;
    const row = Math.floor((down < rows * CELL + GAP / 2 ? down : down - rows * CELL - GAP) / CELL);
    const inside = Math.min(Math.max(row, 0), rows - 1) * columns + Math.min(column, columns - 1);
    const at = [...part("frames").children].indexOf(canvas.closest(".tile"));
    const frame = at - now.model.classTokens.length;
    moveTo(frame < 0 ? now.model.classTokens[at] : tokenOf(frame * perFrame() + inside));
  });

  part("frames").addEventListener("keydown", (event) => {
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -now.model.columns,
      ArrowDown: now.model.columns,
      PageUp: -perFrame(),
      PageDown: perFrame(),
    };
    const last = perFrame() * now.model.frames - 1;
    const ends = { Home: 0, End: last };
    if (!(event.key in steps) && !(event.key in ends)) return;
    event.preventDefault();
    const from = isClass(now.anchor) ? -1 : patchOf(now.anchor);
    const to = event.key in ends ? ends[event.key] : from < 0 ? 0 : from + steps[event.key];
    if (to >= 0 && to <= last) moveTo(tokenOf(to));
  });

  draw();
  part("body").hidden = false;
})();

"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const checked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
const percent = (value, digits = 2) => (value === null ? "–" : (100 * value).toFixed(digits));
const formatCount = (count) => count.toLocaleString("en");
const IGNORED = 255;  // in the ground truth; in a prediction it is no class

// Sortable tables: the first click sorts numbers down and words up; missing values come last.
for (const table of all("table.sortable")) {
  const heads = all("thead th, thead td", table);
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const words = head.classList.contains("word");
    const before = head.getAttribute("aria-sort");
    const ascending = before === "none" ? words : before === "descending";
    for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const value = (row) => {
      const cell = row.children[column];
      return words ? cell.textContent.trim() : cell.dataset.value === "" ? null : Number(cell.dataset.value);
    };
    const order = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const step = words ? a.localeCompare(b, "en", { numeric: true }) : a - b;
      return ascending ? step : -step;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))));
  }));
}

// The confusion matrix as a heat map. The shade is the square root of the share, so that small shares show.
{
  const heatmap = byId("heatmap"), info = byId("cell"), names = data.classes.map(({ name }) => name);
  const totals = data.classes.map(({ pixels }) => pixels);  // also those that are predicted as no class
  const largest = Math.max(1, ...data.matrix.map((row) => Math.max(...row)));
  const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 2 });
  const cells = [];
  const header = heatmap.createTHead().insertRow();
  header.append(document.createElement("td"));
  const title = (text, scope) => {
    const head = Object.assign(document.createElement("th"), { scope });
    head.append(Object.assign(document.createElement("span"), { textContent: text, title: text }));
    return head;
  };
  names.forEach((name) => header.append(title(name, "col")));
  const body = heatmap.createTBody();
  names.forEach((name, row) => {
    const line = body.insertRow();
    line.append(title(name, "row"));
    cells.push(names.map((_, column) => {
      const cell = line.insertCell();
      cell.setAttribute("role", "gridcell");
      cell.tabIndex = row || column ? -1 : 0;
      cell.classList.toggle("diagonal", row === column);
      Object.assign(cell.dataset, { row, column });
      return cell;
    }));
  });
  const fill = () => {
    const counts = checked("values") === "counts";
    cells.forEach((line, row) => line.forEach((cell, column) => {
      const count = data.matrix[row][column], share = totals[row] ? count / totals[row] : 0;
      const shade = Math.sqrt(counts ? count / largest : share);
      const strong = shade >= 0.7;
      cell.classList.toggle("strong", strong);
      cell.style.background = count === 0 ? ""
        : `rgba(var(--${row === column ? "correct" : "wrong"}), ${strong ? 0.5 + shade / 2 : 0.65 * shade})`;
      const rounded = Math.round(100 * share);
      cell.textContent = count === 0 ? "" : counts ? compact.format(count) : rounded ? `${rounded}` : "<1";
    }));
  };
  const describe = (cell) => {
    const row = Number(cell.dataset.row), column = Number(cell.dataset.column), count = data.matrix[row][column];
    const share = totals[row] ? `, ${percent(count / totals[row])} % of ${names[row]}` : "";
    info.textContent = `${names[row]} predicted ${row === column ? "correctly" : `as ${names[column]}`}`
      + `: ${formatCount(count)} pixels${share}`;
  };
  const cellOf = (event) => event.target.closest("td[data-row]");
  heatmap.addEventListener("pointerover", (event) => cellOf(event) && describe(cellOf(event)));
  heatmap.addEventListener("focusin", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    for (const other of all('td[tabindex="0"]', heatmap)) other.tabIndex = -1;
    cell.tabIndex = 0;
    describe(cell);
  });
  heatmap.addEventListener("keydown", (event) => {
    const cell = cellOf(event), step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!cell || !step) return;
    event.preventDefault();
    cells[Number(cell.dataset.row) + step[0]]?.[Number(cell.dataset.column) + step[1]]?.focus();
  });
  for (const input of all('input[name="values"]')) input.addEventListener("change", fill);
  fill();
}

// The image viewer: one layer over the image, painted from train ids.
if (data.images.length) {
  const stage = byId("stage"), photo = byId("photo"), canvas = byId("layer"), pixel = byId("pixel"), key = byId("key");
  const cursor = byId("cursor"), opacity = byId("opacity"), boxes = all('input[name="class"]');
  const classScores = boxes.map((box) => box.closest("label").querySelector(".number"));
  const thumbs = all('input[name="image"]');
  const palette = data.classes.map(({ color }) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
  // What is ignored is black; beside a black class white, beside a white one too grey
  const isClassColor = (level) => palette.some((color) => color.every((value) => Math.abs(value - level) < 32));
  const empty = [0, 255].find((level) => !isClassColor(level)) ?? 128;
  let image = null, target = null, prediction = null, position = null;  // position: row and column of the cursor

  const inflate = async (text) => {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  key.style.setProperty("--empty", `rgb(${empty} ${empty} ${empty})`);
  const addToKey = (kind, text) => key.append(Object.assign(document.createElement("i"), { className: kind }), text);
  const updateKey = () => {
    const layer = checked("layer");
    key.replaceChildren();
    if (image.image === null) key.append("The image file was not found. ");
    if (layer === "errors") {
      addToKey("wrong", "wrong");
      addToKey("correct", "correct");
      addToKey("ignored", "ignored");
    } else if (layer !== "none") {
      key.append("Class colours. ");
      addToKey("empty", layer === "target" ? "ignored" : "no class");
    }
  };
  const paint = () => {
    const layer = checked("layer"), [height, width] = image.packed_size;
    const shown = boxes.map((box) => box.checked), stripe = Math.max(2, Math.round(width / 110));
    const pixels = new ImageData(width, height), out = pixels.data;
    if (layer !== "none") {
      for (let i = 0; i < target.length; i++) {
        const t = target[i], p = prediction[i];
        let red = 0, green = 0, blue = 0, alpha = 255;
        if (layer === "errors") {
          if (t === IGNORED) alpha = 230;
          else if (!shown[t] && !shown[p]) alpha = 0;
          else if (t === p) { red = green = blue = 255; alpha = 150; }
          else if (Math.floor((i % width + Math.floor(i / width)) / stripe) % 2) { red = 92; green = blue = 10; }
          else { red = 214; green = 39; blue = 40; }
        } else {
          const id = layer === "target" ? t : p;
          if (id === IGNORED) red = green = blue = empty;
          else if (shown[id]) [red, green, blue] = palette[id];
          else alpha = 0;
        }
        out.set([red, green, blue, alpha], 4 * i);
      }
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    updateKey();
    const title = `${image.name}, ${{ errors: "errors", target: "ground truth", prediction: "prediction", none: "image" }[layer]}`;
    stage.setAttribute("aria-label", title);
    byId("caption").textContent = title;
  };
  const name = (id) => (id === IGNORED ? "no class" : data.classes[id].name);
  const describe = () => {
    cursor.hidden = position === null;
    if (position === null) { pixel.textContent = "Point at a pixel to see its classes."; return; }
    const [height, width] = image.packed_size, [row, column] = position, i = row * width + column;
    cursor.style.left = `${(100 * (column + 0.5)) / width}%`;
    cursor.style.top = `${(100 * (row + 0.5)) / height}%`;
    const native = [Math.floor((row + 0.5) * image.size[0] / height), Math.floor((column + 0.5) * image.size[1] / width)];
    const verdict = target[i] === IGNORED ? "" : target[i] === prediction[i] ? " (correct)" : " (wrong)";
    pixel.textContent = `Row ${native[0]}, column ${native[1]}: ground truth ${target[i] === IGNORED ? "ignored" : name(target[i])}, `
      + `prediction ${name(prediction[i])}${verdict}`;
  };
  const show = async (number) => {
    const next = data.images[number];
    const maps = await Promise.all([inflate(next.target), inflate(next.prediction)]);
    if (checked("image") !== String(number)) return;  // another image was chosen meanwhile
    image = next;
    [target, prediction] = maps;
    position = null;
    [canvas.height, canvas.width] = image.packed_size;
    stage.style.setProperty("--aspect", canvas.width / canvas.height);
    photo.hidden = image.image === null;
    if (image.image !== null) photo.src = image.image;
    classScores.forEach((output, id) => { output.textContent = percent(image.iou[id], 1); });
    resize();
    paint();
    describe();
    stage.dataset.shown = number;
  };
  const resize = () => {
    stage.style.width = byId("full-size").checked ? `${image.size[1]}px` : "";
    canvas.style.imageRendering = stage.clientWidth > canvas.width ? "pixelated" : "";
  };
  const fade = () => {
    canvas.style.opacity = opacity.value / 100;
    byId("opacity-value").textContent = `${opacity.value} %`;
  };
  const point = (event) => {
    if (!image) return;
    const box = stage.getBoundingClientRect(), [height, width] = image.packed_size;
    const index = (share, length) => Math.min(length - 1, Math.max(0, Math.floor(share * length)));
    position = [index((event.clientY - box.top) / box.height, height), index((event.clientX - box.left) / box.width, width)];
    describe();
  };
  stage.addEventListener("pointermove", point);
  stage.addEventListener("pointerdown", point);
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !image) return;
    event.preventDefault();
    const sizes = image.packed_size, distance = event.shiftKey ? 10 : 1;
    const start = position ?? sizes.map((length) => Math.floor(length / 2));
    position = start.map((value, axis) => Math.min(sizes[axis] - 1, Math.max(0, value + distance * step[axis])));
    describe();
  });
  for (const input of thumbs) {
    const frame = input.parentElement.querySelector(".frame"), source = data.images[input.value].image;
    if (source !== null) frame.style.backgroundImage = `url(${source})`;
    input.addEventListener("change", () => show(Number(input.value)));
  }
  for (const input of [...all('input[name="layer"]'), ...boxes]) input.addEventListener("change", paint);
  for (const [id, on] of [["all", true], ["none", false]]) {
    byId(id).addEventListener("click", () => { for (const box of boxes) box.checked = on; paint(); });
  }
  opacity.addEventListener("input", fade);
  byId("full-size").addEventListener("change", resize);
  fade();
  show(Number(checked("image")));
}

// The map of the collection on a canvas: thumbnails at their places, larger as one comes closer.
const canvas = element.querySelector('canvas');
const hover = element.querySelector('.hover');
const pen = canvas.getContext('2d');
const sheet = new Image();
let map = null, chosen = -1, zoom = 1, left = 0, top_ = 0, asked = false;

const width = () => canvas.clientWidth, height = () => canvas.clientHeight;
// Thumbnails grow more slowly than the distances between them, so that coming closer takes apart
// what lay on one heap.
const side = () => map.side * 0.6 * Math.sqrt(zoom);
const x = n => (map.x[n] * 0.94 + 0.03) * width() * zoom - left;
const y = n => (map.y[n] * 0.94 + 0.03) * height() * zoom - top_;

function draw() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width() * ratio);
  canvas.height = Math.round(height() * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width(), height());
  if (!map) return;
  const size = side();
  for (let n = 0; n < map.rows.length; n++) if (n !== chosen) tile(n, size);
  if (chosen >= 0) {
    tile(chosen, size * 1.8);
    pen.strokeStyle = getComputedStyle(canvas).getPropertyValue('--mark') || 'orange';
    pen.lineWidth = 3;
    pen.strokeRect(x(chosen) - size * 0.9, y(chosen) - size * 0.9, size * 1.8, size * 1.8);
  }
}

function tile(n, size) {
  const px = x(n) - size / 2, py = y(n) - size / 2;
  if (px > width() || py > height() || px + size < 0 || py + size < 0) return;
  const column = n % map.columns, line = Math.floor(n / map.columns);
  pen.drawImage(sheet, column * map.side, line * map.side, map.side, map.side, px, py, size, size);
}

function choose(n) {
  if (n === chosen) return;
  chosen = n;
  hover.textContent = n < 0 ? '' : map.captions[n];
  draw();
}

function nearest(px, py, among, most) {
  let best = -1, least = most * most;
  for (let n = 0; n < map.rows.length; n++) {
    if (!among(n)) continue;
    const distance = (x(n) - px) ** 2 + (y(n) - py) ** 2;
    if (distance < least) { least = distance; best = n; }
  }
  return best;
}

function scale(factor, px, py) {
  const next = Math.min(40, Math.max(1, zoom * factor));
  left = (left + px) * next / zoom - px;
  top_ = (top_ + py) * next / zoom - py;
  zoom = next;
  keep();
}

function keep() {
  left = Math.min(Math.max(left, 0), width() * (zoom - 1));
  top_ = Math.min(Math.max(top_, 0), height() * (zoom - 1));
  draw();
}

async function load() {
  if (asked || !width()) return draw();
  asked = true;
  const answer = await fetch('api/map.json');
  const text = await answer.text();
  if (!answer.ok) {  // from the gate it is a sentence, else JSON
    try { hover.textContent = JSON.parse(text).error; } catch { hover.textContent = text.slice(0, 200); }
    return;
  }
  const told = JSON.parse(text);
  sheet.onload = () => { map = told; draw(); };
  sheet.src = 'api/map.jpg';
}

const fingers = new Map();
let moved = 0;
canvas.addEventListener('pointerdown', event => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, event);
  moved = 0;
});
canvas.addEventListener('pointermove', event => {
  if (!map) return;
  const before = fingers.get(event.pointerId);
  if (!before) {
    // The page may move under a pointer that stands still: what the keys chose stays chosen.
    if (!event.movementX && !event.movementY) return;
    return choose(nearest(event.offsetX, event.offsetY, () => true, side()));
  }
  const dx = event.offsetX - before.offsetX, dy = event.offsetY - before.offsetY;
  moved += Math.abs(dx) + Math.abs(dy);
  if (fingers.size === 1) {
    left -= dx; top_ -= dy; keep();
  } else {
    const other = [...fingers.values()].find(finger => finger.pointerId !== event.pointerId);
    const apart = finger => Math.hypot(finger.offsetX - other.offsetX, finger.offsetY - other.offsetY);
    scale(apart(event) / Math.max(apart(before), 1), other.offsetX, other.offsetY);
  }
  fingers.set(event.pointerId, event);
});
canvas.addEventListener('pointercancel', event => fingers.delete(event.pointerId));
canvas.addEventListener('pointerup', event => {
  fingers.delete(event.pointerId);
  if (!map || moved > 8) return;
  choose(nearest(event.offsetX, event.offsetY, () => true, side()));
  if (chosen >= 0) trigger('click', {row: String(map.rows[chosen])});
});
canvas.addEventListener('wheel', event => {
  event.preventDefault();
  scale(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}, {passive: false});
canvas.addEventListener('keydown', event => {
  if (!map) return;
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (step) {
    event.preventDefault();
    if (chosen < 0) return choose(nearest(width() / 2, height() / 2, () => true, Infinity));
    const px = x(chosen), py = y(chosen);
    const ahead = n => {
      const dx = x(n) - px, dy = y(n) - py, along = dx * step[0] + dy * step[1];
      return along > 1 && along >= Math.abs(dx * step[1] + dy * step[0]);
    };
    const next = nearest(px, py, ahead, Infinity);
    if (next >= 0) choose(next);
  } else if (event.key === '+' || event.key === '=') scale(1.5, width() / 2, height() / 2);
  else if (event.key === '-') scale(1 / 1.5, width() / 2, height() / 2);
  else if (event.key === 'Enter' && chosen >= 0) trigger('click', {row: String(map.rows[chosen])});
});
new ResizeObserver(load).observe(canvas);

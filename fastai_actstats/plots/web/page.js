// The pictures of a page that `plots.page` writes: data, charts, and the view that all of them share.
// Text of a record comes into the document as textContent only. See page_controls.js for search, keys and links.
'use strict';
const $ = id => document.getElementById(id);
const page = JSON.parse($('page').textContent);
const whole = {min: page.view[0], max: page.view[1]};
const view = {...whole};  // first and last step in sight, of all charts
const charts = [];  // {el, u, visible, stale, ...}, one a picture that is in the document
const dark = matchMedia('(prefers-color-scheme: dark)');
const colour = name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
const number = x => x === null || Number.isNaN(x) ? 'none' : !Number.isFinite(x) ? String(x) :
  Math.abs(x) >= 1e6 || x && Math.abs(x) < 1e-4 ? x.toExponential(3) : String(+x.toPrecision(4));
const whole_number = n => n.toLocaleString('en-US');

// data: base64 of what zlib made of an array, the lowest bytes of all values first; unpacked when first looked at

const ARRAYS = {u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f8: Float64Array};
const blocks = new Map();

async function unpack(id) {
  const text = $(id).textContent, raw = atob(text.slice(3)), packed = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) packed[i] = raw.charCodeAt(i);
  const stream = new DecompressionStream('deflate'), writer = stream.writable.getWriter();
  writer.write(packed);  // not by way of a Blob or a Response, which sometimes waited for seconds (seen in Chromium)
  writer.close();
  const parts = [], reader = stream.readable.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) parts.push(part.value);
  const bytes = new Uint8Array(parts.reduce((n, part) => n + part.length, 0));
  parts.reduce((at, part) => { bytes.set(part, at); return at + part.length; }, 0);
  const Kind = ARRAYS[text.slice(0, 2)], size = Kind.BYTES_PER_ELEMENT, out = new Uint8Array(bytes.length);
  for (let b = 0, at = 0; b < size; b++) for (let i = b; i < out.length; i += size) out[i] = bytes[at++];
  return new Kind(out.buffer);
}

function block(id) {
  if (!blocks.has(id)) blocks.set(id, unpack(id));
  return blocks.get(id);
}

// columns and cells

function column_at(edges, x) {  // index of the last edge up to x
  let low = 0, high = edges.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= x) low = middle; else high = middle;
  }
  return low;
}

const middle = (edges, t) => (edges[t] + edges[t + 1])/2;

function steps_of(group, t) {
  const [first, last, epoch] = group.columns[t], when = first === last ? `step ${first}` : `steps ${first} to ${last}`;
  return `${when}, epoch ${epoch}`;
}

function range_of(group, row) {  // row 0: below, 1..n: the bins, n + 1: above
  const {edges} = group, n = edges.length - 1;
  if (row === 0) return `below ${number(edges[0])}`;
  return row > n ? `above ${number(edges[n])}` : `${number(edges[row - 1])} to ${number(edges[row])}`;
}

function described(chart, t, row) {
  const {group, counts, totals} = chart, T = group.columns.length;
  const n = counts[row*T + t], total = totals[t];
  const share = total ? `${number(100*n/total)} %` : 'layer did not run';
  return `${steps_of(group, t)}\nvalues ${range_of(group, row)}\ncount ${whole_number(n)} of ${whole_number(total)}` +
    ` (${share})`;
}

// the view: charts out of sight catch up when they come into it

let asked = false;
function show_view(min, max) {
  const least = Math.min(page.least, whole.max - whole.min);
  const width = Math.min(Math.max(max - min, least), whole.max - whole.min);
  view.min = Math.min(Math.max(min + (max - min - width)/2, whole.min), whole.max - width);
  view.max = view.min + width;
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    for (const c of charts) { c.stale = true; refresh(c); }
    $('view').textContent = `steps ${Math.round(view.min)} to ${Math.round(view.max)}`;
  });
}
const zoom = (factor, at = (view.min + view.max)/2) =>
  show_view(at - (at - view.min)*factor, at + (view.max - at)*factor);
const pan = share => show_view(view.min + share*(view.max - view.min), view.max + share*(view.max - view.min));

function refresh(c) {
  if (!c.u || !c.visible) return;
  const width = c.el.clientWidth;
  if (width && width !== c.u.width) c.u.setSize({width, height: c.height});
  if (c.stale) { c.stale = false; c.u.setScale('x', view); }
}

const watched = new IntersectionObserver(entries => {
  for (const e of entries) {
    const c = e.target.chart;
    c.visible = e.isIntersecting;
    if (c.visible && !c.ready) c.ready = c.build(c);
    refresh(c);
  }
}, {rootMargin: '200px'});

function add_chart(el, build, height, more) {
  const c = {el, build, height, visible: false, stale: false, ...more};
  el.chart = c;
  el.style.height = `${height}px`;
  charts.push(c);
  watched.observe(el);
  return c;
}

function axes(values, steps_too = {}) {
  const common = {stroke: () => colour('ink'), grid: {stroke: () => colour('grid'), width: 1},
                  ticks: {stroke: () => colour('grid'), width: 1}, font: '12px system-ui, sans-serif'};
  const steps = {...common, size: 26, incrs: [1, 2, 5].flatMap(k => [0, 1, 2, 3, 4, 5, 6, 7, 8].map(p => k*10**p))
    .sort((a, b) => a - b), values: (u, at) => at.map(x => String(x)), ...steps_too};
  return [steps, {...common, size: 64, values: (u, at) => at.map(number), ...values}];
}

function draw(c, data, series, options) {
  const u = new uPlot({
    width: c.el.clientWidth || 600, height: c.height, legend: {show: false}, padding: [8, 12, 0, 0], ...options,
    scales: {x: {time: false, range: () => [view.min, view.max]}, ...options.scales}, series: [{}, ...series],
    cursor: {y: false, drag: {x: true, y: false, setScale: false}, sync: {key: 'steps', scales: ['x', null], setSeries: false},
             bind: {dblclick: () => () => { show_view(whole.min, whole.max); return null; },
                    mousedown: (u, target, act) => e => e.shiftKey ? grab(u, e) : act(e)}, ...options.cursor},
    hooks: {...options.hooks, setSelect: [u => {
      if (u.select.width < 4) return;
      show_view(u.posToVal(u.select.left, 'x'), u.posToVal(u.select.left + u.select.width, 'x'));
      u.setSelect({left: 0, width: 0, top: 0, height: 0}, false);
    }]},
  }, data, c.el);
  c.u = u;
  u.over.addEventListener('wheel', e => {
    if (!e.ctrlKey && !e.shiftKey) return;  // the page scrolls
    e.preventDefault();
    if (e.shiftKey) pan((e.deltaY || e.deltaX)/1000);
    else zoom(2**(e.deltaY/300), u.posToVal(e.clientX - u.over.getBoundingClientRect().left, 'x'));
  }, {passive: false});
  c.el.addEventListener('pointerenter', () => { pointed = c; });
  c.el.addEventListener('pointerleave', () => { if (pointed === c) { pointed = null; hide_tip(); } });
  refresh(c);
  return u;
}

function grab(u, e) {  // pan with the pointer
  const from = e.clientX, {min, max} = view, scale = (max - min)/u.over.clientWidth;
  const move = e => show_view(min - (e.clientX - from)*scale, max - (e.clientX - from)*scale);
  addEventListener('pointermove', move);
  addEventListener('pointerup', () => removeEventListener('pointermove', move), {once: true});
}

// the colourful dimension of a layer

const palette = new Uint32Array(page.palette.map(([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0));
const scratch = document.createElement('canvas').getContext('2d');

function levels_of(counts, totals, T, share) {
  const out = new Uint8Array(counts.length);
  let most = 0;
  for (const n of counts) if (n > most) most = n;
  const scale = 255/Math.log1p(most || 1), [low, high] = page.share.map(Math.log);
  for (let i = 0; i < out.length; i++) {
    if (!counts[i]) continue;
    const level = share ? 255*(Math.log(counts[i]/totals[i % T]) - low)/(high - low) : scale*Math.log1p(counts[i]);
    out[i] = Math.min(Math.max(level, 0), 255) + .5;
  }
  return out;
}

function paint(u, c) {
  const {group, levels, totals} = c, {ctx, bbox} = u, T = group.columns.length, n = group.edges.length - 1;
  const width = Math.max(1, Math.round(bbox.width)), image = new ImageData(width, n + 2);
  const pixels = new Uint32Array(image.data.buffer), {min, max} = u.scales.x;
  for (let x = 0, t = 0; x < width; x++) {
    const at = min + (x + .5)/width*(max - min);
    if (at < group.x[0] || at >= group.x[T]) continue;
    if (!x || at >= group.x[t + 1]) t = column_at(group.x, at);
    if (!totals[t]) continue;  // where a layer did not run
    for (let row = 0; row < n + 2; row++) pixels[(n + 1 - row)*width + x] = palette[levels[row*T + t]];
  }
  if (scratch.canvas.width !== width || scratch.canvas.height !== n + 2) {
    scratch.canvas.width = width;
    scratch.canvas.height = n + 2;
  }
  scratch.putImageData(image, 0, 0);
  ctx.save();
  ctx.imageSmoothingEnabled = false;
  const strip = (row, rows, low, high) => {
    const top = u.valToPos(high, 'y', true), bottom = u.valToPos(low, 'y', true);
    ctx.fillStyle = colour('nothing');
    ctx.fillRect(bbox.left, top, bbox.width, bottom - top);
    ctx.drawImage(scratch.canvas, 0, row, width, rows, bbox.left, top, bbox.width, bottom - top);
  };
  strip(1, n, 0, n);
  if (group.below) strip(n + 1, 1, -.09*n, -.03*n);
  if (group.above) strip(0, 1, 1.03*n, 1.09*n);
  ctx.restore();
}

function mark(u, c) {  // where epochs and fits begin, and the steps of findings
  const {ctx, bbox} = u;
  ctx.save();
  const line = (x, style, dash, wide) => {
    if (x < view.min || x > view.max) return;
    const at = Math.round(u.valToPos(x, 'x', true)) + .5;
    ctx.strokeStyle = style; ctx.lineWidth = wide; ctx.setLineDash(dash);
    ctx.beginPath(); ctx.moveTo(at, bbox.top); ctx.lineTo(at, bbox.top + bbox.height); ctx.stroke();
  };
  for (const [x, fit] of c.group.marks) line(x, c.counts ? '#fff9' : colour('grid'), fit ? [] : [2, 4], fit ? 2 : 1);
  for (const x of c.found ?? []) line(x, colour('found'), [6, 3], 2);
  ctx.restore();
}

async function build_panel(c) {
  const {group, layer} = c, T = group.columns.length, n = group.edges.length - 1;
  const part = a => a.subarray(layer*T, (layer + 1)*T);
  const [counts, totals, means] = await Promise.all([block(group.counts[layer]), block(group.totals), block(group.stats.mean)]);
  Object.assign(c, {counts, totals: part(totals), T, n});
  c.levels = levels_of(counts, c.totals, T, page.shares);
  const at = v => Math.min(Math.max((v - group.edges[0])*n/(group.edges[n] - group.edges[0]), 0), n);
  const line = Array.from(part(means), v => group.log || Number.isNaN(v) ? null : at(v));
  const low = group.below ? -.09*n : 0, high = group.above ? 1.09*n : n;
  const white = {stroke: '#fff', width: 1.5, points: {show: false}};
  draw(c, [group.middles, line, line], [{...white, stroke: '#000', width: 3}, white], {
    scales: {y: {range: () => [low, high]}},
    axes: axes({splits: () => group.ticks.map(t => t[0]), values: () => group.ticks.map(t => t[1]), grid: {show: false}},
               {grid: {show: false}}),
    cursor: {points: {show: false}},
    hooks: {drawClear: [u => paint(u, c)], draw: [u => mark(u, c)], setCursor: [u => point_at(u, c)]},
  });
}

// statistics, one line a layer

function depth(i, n) {
  const k = Math.round(255*(i + 1)/(n + 1)), [r, g, b] = page.palette[dark.matches ? k : 255 - k];
  return `rgb(${r} ${g} ${b})`;
}

async function build_stat(c) {
  const {group, stat} = c, T = group.columns.length, values = await block(group.stats[stat]);
  const lines = group.names.map((_, i) => Array.from(values.subarray(i*T, (i + 1)*T), v => Number.isFinite(v) ? v : null));
  const series = group.names.map((_, i) => (
    {stroke: () => depth(i, lines.length), width: 1.3, points: {show: T === 1}, show: !group.hidden[i]}));
  draw(c, [group.middles, ...lines], series, {
    scales: {y: group.log && stat === 'std' ? {distr: 3} : {}}, axes: axes({}),
    cursor: {focus: {prox: 24}, points: {size: 6}}, focus: {alpha: .25},
    hooks: {draw: [u => mark(u, c)], setSeries: [(u, i) => { if (pointed === c) c.line = i; }],
            setCursor: [u => point_at_line(u, c)]},
  });
}

async function build_run(c) {
  const {group} = c, values = await block(group.run.values), T = group.columns.length;
  const lines = group.run.names.map((_, i) => Array.from(values.subarray(i*T, (i + 1)*T), v => Number.isFinite(v) ? v : null));
  const rate = name => name !== 'loss', style = i => i ? [6, 3] : [];
  const [steps, left] = axes({}), right = {...left, scale: 'lr', side: 1, grid: {show: false}};
  draw(c, [group.middles, ...lines], group.run.names.map((name, i) => (
    {scale: rate(name) ? 'lr' : 'y', stroke: () => colour(rate(name) ? 'found' : 'ink'), dash: style(i), width: 1.5})), {
    axes: group.run.names.some(rate) ? [steps, left, right] : [steps, left],
    hooks: {draw: [u => mark(u, c)], setCursor: [u => point_at_run(u, c)]},
  });
}

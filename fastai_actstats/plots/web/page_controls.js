// Search, keys, links and what is read out, of a page that `plots.page` writes; after page.js.

let pointed = null;  // the chart under the pointer
const tip = $('tip');

function hide_tip() { tip.hidden = true; }

function say(u, text, left, top) {  // beside the pointer
  const box = u.over.getBoundingClientRect();
  tip.textContent = text;
  tip.hidden = false;
  const wide = tip.offsetWidth, x = box.left + left + 16;
  tip.style.left = `${Math.max(4, x + wide > innerWidth ? x - wide - 32 : x)}px`;
  tip.style.top = `${Math.max(4, Math.min(box.top + top + 16, innerHeight - tip.offsetHeight - 4))}px`;
}

function row_at(c, y) {
  const {group, n} = c;
  if (y < 0) return group.below && y <= -.03*n ? 0 : null;
  if (y > n) return group.above && y >= 1.03*n ? n + 1 : null;
  return Math.min(Math.floor(y), n - 1) + 1;
}

function height_of(c, row) { return row === 0 ? -.06*c.n : row > c.n ? 1.06*c.n : row - .5; }

function within(u) { return u.cursor.left >= 0 && u.cursor.top >= 0; }

function point_at(u, c) {
  if (pointed !== c || !within(u)) return;
  const x = u.posToVal(u.cursor.left, 'x'), row = row_at(c, u.posToVal(u.cursor.top, 'y')), {x: edges} = c.group;
  if (row === null || x < edges[0] || x >= edges[c.T]) return hide_tip();
  c.cell = [column_at(edges, x), row];
  say(u, described(c, ...c.cell), u.cursor.left, u.cursor.top);
}

function line_text(c, i, t) {  // i: 1 for the first layer
  return `${c.group.names[i - 1]}\n${c.stat.replace('_', ' ')} ${number(c.u.data[i][t])}\n${steps_of(c.group, t)}`;
}

function point_at_line(u, c) {
  if (pointed !== c || !within(u)) return;
  if (!c.line || u.cursor.idx == null) return hide_tip();
  say(u, line_text(c, c.line, u.cursor.idx), u.cursor.left, u.cursor.top);
}

function run_text(c, t) {
  return [steps_of(c.group, t), ...c.group.run.names.map((name, i) => `${name} ${number(c.u.data[i + 1][t])}`)].join('\n');
}

function point_at_run(u, c) {
  if (pointed !== c || !within(u) || u.cursor.idx == null) return;
  say(u, run_text(c, u.cursor.idx), u.cursor.left, u.cursor.top);
}

// keys: a chart that has the focus is read out column by column

function point(c, t, row) {
  const {group, u} = c, T = group.columns.length, last = c.counts ? c.n + 1 : c.stat ? group.names.length : 1;
  t = Math.min(Math.max(t, 0), T - 1);
  row = Math.min(Math.max(row, c.counts ? 0 : 1), last);
  c.cell = [t, row];
  const x = middle(group.x, t);
  if (x < view.min || x > view.max) { const half = (view.max - view.min)/2; show_view(x - half, x + half); }
  c.stale = true;
  refresh(c);
  const text = c.counts ? described(c, t, row) : c.stat ? line_text(c, row, t) : run_text(c, t);
  const value = c.counts ? height_of(c, row) : u.data[c.stat ? row : 1][t];
  const left = u.valToPos(x, 'x'), top = value == null ? 20 : u.valToPos(value, 'y');
  pointed = null;
  u.setCursor({left, top}, false);
  if (c.stat) u.setSeries(row, {focus: true}, false);
  say(u, text, left, top);
  $('said').textContent = text.replaceAll('\n', '; ');
}

const MOVES = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1], PageUp: [-10, 0], PageDown: [10, 0]};

async function key(e, c) {
  if (e.altKey || e.ctrlKey || e.metaKey) return;
  const [t, row] = c.cell ?? [column_at(c.group.x, view.min), c.counts ? (c.n >> 1) + 1 : 1];
  if (e.shiftKey && e.key === 'ArrowLeft') pan(-.25);
  else if (e.shiftKey && e.key === 'ArrowRight') pan(.25);
  else if (e.key === '+' || e.key === '=') zoom(.5);
  else if (e.key === '-') zoom(2);
  else if (e.key === '0') show_view(whole.min, whole.max);
  else if (e.key === 'Escape') hide_tip();
  else if (e.key === 'Home' || e.key === 'End') { await c.ready; point(c, e.key === 'Home' ? 0 : Infinity, row); }
  else if (MOVES[e.key]) {
    e.preventDefault();
    await c.ready;
    point(c, t + MOVES[e.key][0], row + (c.counts ? 1 : -1)*MOVES[e.key][1]);
  } else return;
  e.preventDefault();
}

// search and filters

const sections = page.layers.map((layer, i) => {
  const of = page.shares ? [] : layer.panels.map(([g]) => page.groups[g].title);  // of a run that is not compared: what
  return {...layer, el: $(`layer-${i}`), text: [layer.name, layer.type, ...of].join(' ').toLowerCase()};
});

function filter() {
  const text = $('search').value.trim().toLowerCase(), kind = $('kind').value, finding = $('finding').value;
  let n = 0;
  for (const s of sections) {
    const found = !finding || (finding === 'any' ? s.findings.length > 0 : s.findings.includes(finding.slice(1)));
    s.hidden = !(s.text.includes(text) && (!kind || kind.slice(1) === s.type) && found);
    s.el.hidden = s.hidden;
    n += !s.hidden;
    for (const [g, layer] of s.panels) page.groups[g].hidden[layer] = s.hidden;
  }
  for (const row of document.querySelectorAll('tr[data-layer]')) row.hidden = sections[row.dataset.layer].hidden;
  $('matches').textContent = `${n} of ${sections.length} layers`;
  for (const c of charts) {
    if (!c.stat || !c.u) continue;
    c.u.batch(() => c.group.hidden.forEach((hidden, i) => {
      if (c.u.series[i + 1].show === hidden) c.u.setSeries(i + 1, {show: !hidden}, false);
    }));
  }
}

async function go(link) {
  const s = sections[link.dataset.layer], step = +link.dataset.step;
  if (s.hidden) { $('search').value = $('kind').value = $('finding').value = ''; filter(); }
  const panels = [...s.el.querySelectorAll('.panel')];
  const el = panels.find(el => el.dataset.group === link.dataset.group) ?? panels[0], c = el.chart;
  c.ready ??= c.build(c);
  await c.ready;
  s.el.scrollIntoView({block: 'center'});
  await new Promise(requestAnimationFrame);  // what is scrolled to has no tip beside it
  c.visible = true;
  el.focus({preventScroll: true});
  if (!link.dataset.step) return;
  const t = column_at(c.group.x, step);
  let row = 1;
  for (let i = 0; i < c.n + 2; i++) if (c.counts[i*c.T + t] > c.counts[row*c.T + t]) row = i;
  point(c, t, row);
}

// everything is put together

for (const g of page.groups) {
  g.middles = Array.from(g.columns, (_, t) => middle(g.x, t));
  g.hidden = g.names.map(() => false);
}

for (const el of document.querySelectorAll('.panel')) {
  const g = +el.dataset.group, layer = +el.dataset.layer, group = page.groups[g];
  add_chart(el, build_panel, 230, {group, layer, found: page.layers[el.dataset.section].since.filter(o => o[0] === g).map(o => o[1])});
}
for (const el of document.querySelectorAll('.stat'))
  add_chart(el, build_stat, 210, {group: page.groups[el.dataset.group], stat: el.dataset.stat});
for (const el of document.querySelectorAll('.run')) add_chart(el, build_run, 210, {group: page.groups[el.dataset.group]});
for (const c of charts) c.el.addEventListener('keydown', e => key(e, c));

for (const id of ['search', 'kind', 'finding']) $(id).addEventListener('input', filter);
document.addEventListener('click', e => {
  const link = e.target.closest('a[data-layer]');
  if (!link) return;
  e.preventDefault();
  go(link);
});
for (const [id, act] of Object.entries({'zoom-in': () => zoom(.5), 'zoom-out': () => zoom(2), 'pan-left': () => pan(-.5),
                                        'pan-right': () => pan(.5), 'reset': () => show_view(whole.min, whole.max)}))
  $(id).addEventListener('click', act);
addEventListener('resize', () => charts.forEach(refresh));
addEventListener('scroll', hide_tip, {passive: true});
dark.addEventListener('change', () => charts.forEach(c => c.u?.redraw(false)));
filter();
show_view(whole.min, whole.max);

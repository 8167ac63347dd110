'use strict';
(() => {
  const scales = {
    'op/s': [[1e9, ' G'], [1e6, ' M'], [1e3, ' k'], [1, '']], '1': [[1e9, ' G'], [1e6, ' M'], [1e3, ' k'], [1, '']],
    'B/s': [[1e9, ' GB/s'], [1e6, ' MB/s'], [1e3, ' kB/s'], [1, ' B/s']],
    'B': [[2 ** 40, ' TiB'], [2 ** 30, ' GiB'], [2 ** 20, ' MiB'], [2 ** 10, ' KiB'], [1, ' B']],
    'ns': [[1e9, ' s'], [1e6, ' ms'], [1e3, ' µs'], [1, ' ns']], '%': [[1, ' %']], '×': [[1, ' ×']],
  };
  const text = (v, unit) => {
    if (v === null || v === undefined) return '–';
    const [scale, name] = scales[unit].find(([s]) => Math.abs(v) >= s) || scales[unit].at(-1);
    return +(v / scale).toPrecision(3) + name;
  };
  // A pointer on a picture of lines shows the values at its time, from the data in the page.
  const follow = () => {
    const data = JSON.parse(document.getElementById('data').textContent);
    for (const chart of data.charts) {
      const plot = document.querySelector(`[id="${chart.id}"] .plot`);
      const cursor = plot.appendChild(document.createElement('div'));
      const tip = plot.appendChild(document.createElement('div'));
      cursor.className = 'cursor';
      tip.className = 'tip';
      const points = chart.lines[0].points;
      plot.addEventListener('pointermove', event => {
        const box = plot.getBoundingClientRect();
        const at = chart.x.low + (event.clientX - box.left) / box.width * (chart.x.high - chart.x.low);
        let i = 0;
        points.forEach((p, k) => { if (Math.abs(p[0] - at) < Math.abs(points[i][0] - at)) i = k; });
        const place = (points[i][0] - chart.x.low) / (chart.x.high - chart.x.low) * 100;
        tip.textContent = [points[i][0] + ' s', ...chart.lines.map(line => {
          const [, mean, low, high] = line.points[i];
          const range = low === undefined ? '' : ` (${text(low, chart.y.unit)} to ${text(high, chart.y.unit)})`;
          return `${line.name}: ${text(mean, chart.y.unit)}${range}`;
        })].join('\n');
        cursor.style.left = place + '%';
        tip.style.left = place < 50 ? `calc(${place}% + .6rem)` : 'auto';
        tip.style.right = place < 50 ? 'auto' : `calc(${100 - place}% + .6rem)`;
        cursor.style.display = tip.style.display = 'block';
      });
      plot.addEventListener('pointerleave', () => { cursor.style.display = tip.style.display = 'none'; });
    }
  };
  follow();
  // The page of a running load replaces its contents. Tables that the reader has opened stay open.
  const main = document.querySelector('main');
  const every = +main.dataset.refresh;
  if (!every) return;
  const state = document.getElementById('state');
  const refresh = async () => {
    try {
      const answer = await fetch('?part=main', { cache: 'no-store' });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = await answer.text();
      const open = [...main.querySelectorAll('details[open]')].map(d => d.id);
      if (!main.querySelector('.plot:hover')) {
        main.innerHTML = fresh;
        for (const id of open) document.getElementById(id)?.setAttribute('open', '');
        follow();
      }
      state.textContent = '';
    } catch {
      state.textContent = 'The program does not answer: these are its last values.';
    }
    setTimeout(refresh, every * 1000);
  };
  setTimeout(refresh, every * 1000);
})();

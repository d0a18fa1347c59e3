// Pictures of series, as SVG: a small line without words, and a plot with axes.

const SVG = 'http://www.w3.org/2000/svg';

export function svg(tag, attributes = {}, ...children) {
	const element = document.createElementNS(SVG, tag);
	for (const [name, value] of Object.entries(attributes))
		element.setAttribute(name, value);
	element.append(...children);
	return element;
}

function bounds(values) {
	let low = Math.min(...values);
	let high = Math.max(...values);
	if (low === high) {
		low -= Math.abs(low) * 0.05 || 1;
		high += Math.abs(high) * 0.05 || 1;
	}
	return [low, high];
}

// points: [ms, value], oldest first
export function sparkline(points, label) {
	const width = 72, height = 24;
	const picture = svg('svg', {class: 'sparkline', viewBox: `0 0 ${width} ${height}`, role: 'img',
		'aria-label': label});
	if (points.length < 2)
		return picture;
	const [low, high] = bounds(points.map(p => p[1]));
	const first = points[0][0], span = points.at(-1)[0] - first || 1;
	const at = ([ms, value]) => `${(2 + (ms - first) / span * (width - 4)).toFixed(1)},` +
		`${(height - 3 - (value - low) / (high - low) * (height - 6)).toFixed(1)}`;
	picture.append(svg('polyline', {points: points.map(at).join(' ')}));
	return picture;
}

// A step from one line of the axis to the next: 1, 2 or 5 times a power of ten.
function niceStep(span, count) {
	const raw = span / count;
	const power = 10 ** Math.floor(Math.log10(raw));
	return [1, 2, 5, 10].find(n => n * power >= raw) * power;
}

const TIME_STEPS = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800]
	.map(s => s * 1000);

function timeTicks(since, until, count) {
	const step = TIME_STEPS.find(s => (until - since) / s <= count) ?? TIME_STEPS.at(-1);
	const offset = new Date(since).getTimezoneOffset() * 60000;
	const ticks = [];
	for (let t = Math.ceil((since - offset) / step) * step + offset; t <= until; t += step)
		ticks.push(t);
	return [ticks, step];
}

// points: [ms, average, min, max], oldest first.  A gap of a third of the picture, or of ten times
// the usual distance, is not drawn over.
export function plot(points, since, until, {unit, label}) {
	const width = 720, height = 260, left = 56, right = 12, top = 12, bottom = 28;
	const picture = svg('svg', {class: 'plot', viewBox: `0 0 ${width} ${height}`, role: 'img',
		'aria-label': label});
	const numbers = new Intl.NumberFormat(undefined, {maximumSignificantDigits: 6});
	if (points.length === 0) {
		picture.append(svg('text', {x: width / 2, y: height / 2, class: 'empty'}, 'no measurements'));
		return picture;
	}
	const [low, high] = bounds(points.flatMap(p => [p[2], p[3]]));
	const x = ms => left + (ms - since) / (until - since) * (width - left - right);
	const y = value => height - bottom - (value - low) / (high - low) * (height - top - bottom);

	const step = niceStep(high - low, 5);
	for (let v = Math.ceil(low / step) * step; v <= high + step / 1e6; v += step) {
		picture.append(svg('line', {class: 'grid', x1: left, x2: width - right, y1: y(v), y2: y(v)}),
			svg('text', {class: 'tick', x: left - 6, y: y(v) + 4, 'text-anchor': 'end'},
				numbers.format(Number(v.toPrecision(12)))));
	}
	const [ticks, tickStep] = timeTicks(since, until, 7);
	const clock = new Intl.DateTimeFormat(undefined, tickStep < 86400000
		? {hour: '2-digit', minute: '2-digit', ...(tickStep < 60000 && {second: '2-digit'})}
		: {month: 'short', day: 'numeric'});
	for (const t of ticks) {
		picture.append(svg('line', {class: 'grid', x1: x(t), x2: x(t), y1: top, y2: height - bottom}),
			svg('text', {class: 'tick', x: x(t), y: height - 8, 'text-anchor': 'middle'},
				clock.format(t)));
	}
	if (unit)
		picture.append(svg('text', {class: 'tick', x: 6, y: 14}, unit));

	const gaps = points.slice(1).map((p, i) => p[0] - points[i][0]).sort((a, b) => a - b);
	const longest = Math.max((gaps[gaps.length >> 1] ?? 0) * 10, (until - since) / 300);
	const runs = [];
	for (const [i, point] of points.entries()) {
		if (i === 0 || point[0] - points[i - 1][0] > longest)
			runs.push([]);
		runs.at(-1).push(point);
	}
	const at = (ms, value) => `${x(ms).toFixed(1)},${y(value).toFixed(1)}`;
	for (const run of runs) {
		if (run.some(p => p[2] !== p[3]))
			picture.append(svg('polygon', {class: 'band', points: [...run.map(p => at(p[0], p[3])),
				...run.map(p => at(p[0], p[2])).reverse()].join(' ')}));
		picture.append(run.length === 1
			? svg('circle', {class: 'dot', cx: x(run[0][0]), cy: y(run[0][1]), r: 2})
			: svg('polyline', {class: 'line', points: run.map(p => at(p[0], p[1])).join(' ')}));
	}
	return picture;
}

// The live page: one view at a time, chosen by the part of the address after "#".
//
// A view is a function that fills <main> and returns what to do with events and measurements while
// it is shown.  All text from the server enters as text nodes, never as markup.

import {Link, Refused} from './socket.js';
import {plot, sparkline} from './plot.js';

const SPARK_POINTS = 60;
const POLL_MS = 400;			// between two looks at a saga that is under way
const REFRESH_MS = 15000;		// of what no event tells

const link = new Link();
const main = document.getElementById('main');
const series = new Map();		// "device parameter" -> the last points, for sparklines
let view = null;				// {refresh, event, measurement, leave} of the view that is shown
let news = 0;					// notifications that came while another view was shown

// ---------------------------------------------------------------------------------- elements

function h(tag, attributes = {}, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith('on'))
			element.addEventListener(name.slice(2), value);
		else if (value === true)
			element.setAttribute(name, '');
		else if (value !== false && value != null)
			element.setAttribute(name, value);
	}
	element.append(...children.filter(child => child != null));
	return element;
}

const numbers = new Intl.NumberFormat(undefined, {maximumSignificantDigits: 7});
const moments = new Intl.DateTimeFormat(undefined,
	{month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit'});
const relative = new Intl.RelativeTimeFormat(undefined, {numeric: 'auto', style: 'short'});

const AGES = [[60, 'second', 1], [3600, 'minute', 60], [86400, 'hour', 3600], [Infinity, 'day', 86400]];

function age(at) {
	const seconds = (new Date(at) - Date.now()) / 1000;
	const [, unit, length] = AGES.find(([limit]) => Math.abs(seconds) < limit);
	return relative.format(Math.round(seconds / length), unit);
}

function time(at) {
	return at ? h('time', {datetime: at, title: moments.format(new Date(at)), 'data-age': at}, age(at)) : '';
}

// The word for a value, where the parameter has one, else the number with its unit.
function valueText(value, unit, labels) {
	if (value == null)
		return '–';
	const word = Object.entries(labels ?? {}).find(([, number]) => number === value);
	return word ? word[0] : numbers.format(value) + (unit ? '\u00a0' + unit : '');
}

function badge(text, kind) { return h('span', {class: `badge ${kind}`}, text); }

function onlineBadge(online) {
	return online == null ? badge('no status', 'quiet')
		: online ? badge('online', 'good') : badge('offline', 'bad');
}

function problem(error) {
	return h('p', {class: 'problem', role: 'alert'}, error.message,
		error instanceof Refused && error.hint ? h('small', {}, ' ', error.hint) : null);
}

function toast(text, kind = '') {
	const box = h('div', {class: `toast ${kind}`}, text);
	document.getElementById('toasts').append(box);
	setTimeout(() => box.remove(), 6000);
}

function uuid() {
	const bytes = crypto.getRandomValues(new Uint8Array(16));
	bytes[6] = bytes[6] & 0x0f | 0x40;
	bytes[8] = bytes[8] & 0x3f | 0x80;
	const hex = Array.from(bytes, b => b.toString(16).padStart(2, '0')).join('');
	return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

const deviceLink = name => h('a', {href: `#/device/${encodeURIComponent(name)}`}, name);

// ---------------------------------------------------------------------------------- series

function remember(device, parameter, at, value) {
	const key = `${device} ${parameter}`;
	const points = series.get(key) ?? [];
	const ms = new Date(at).getTime();
	if (points.length === 0 || ms > points.at(-1)[0])
		points.push([ms, value]);
	if (points.length > SPARK_POINTS)
		points.shift();
	series.set(key, points);
	return points;
}

// One value that follows its measurements: text, and a line of the last ones.
function liveValue(device, {parameter, value, unit, labels, at}, withSpark = true) {
	const text = h('span', {class: 'value', 'data-sensor': `${device} ${parameter}`},
		valueText(value, unit, labels));
	const box = h('div', {class: 'reading'}, h('span', {class: 'name', title: parameter}, parameter), text);
	const show = points => withSpark && box.querySelector('.sparkline')?.replaceWith(
		sparkline(points, `recent values of ${parameter}`));
	if (withSpark)
		box.append(sparkline([], ''));
	if (value != null && at)
		show(remember(device, parameter, at, value));
	return {
		box,
		take(message) {
			if (message.device !== device || message.parameter !== parameter)
				return;
			text.textContent = valueText(message.value, unit, labels);
			text.classList.remove('fresh');
			void text.offsetWidth;			// begins the animation again
			text.classList.add('fresh');
			show(remember(device, parameter, message.at, message.value));
		},
	};
}

// ---------------------------------------------------------------------------------- fleet

function fleetView() {
	let rows = [];
	let readings = [];
	let more = false;
	const list = h('ul', {class: 'cards', 'aria-label': 'Devices'});
	const note = h('div', {'aria-live': 'polite'});
	const moreButton = h('button', {type: 'button', hidden: true, onclick: () => load(true)}, 'Show more');
	const search = h('input', {type: 'search', id: 'search', autocomplete: 'off', maxlength: 64,
		oninput: () => { clearTimeout(search.timer); search.timer = setTimeout(() => load(false), 200); }});
	main.replaceChildren(
		h('div', {class: 'heading'}, h('h1', {}, 'Fleet'),
			h('label', {for: 'search'}, 'Find a device ', search)),
		note, list, moreButton);

	function card(device) {
		const values = device.values.slice(0, 4).map(value => liveValue(device.device, value));
		readings.push(...values);
		const {open, red} = device.alarms;
		return h('li', {class: open ? red ? 'card red' : 'card orange' : 'card'},
			h('div', {class: 'card-head'}, h('h2', {}, deviceLink(device.device)), onlineBadge(device.online),
				open ? badge(open === 1 ? '1 alarm' : `${open} alarms`, red ? 'bad' : 'warn') : null),
			...values.map(value => value.box),
			h('p', {class: 'quiet'}, `${device.group} · ${device.type}`, ' · seen ',
				device.last_seen_at ? time(device.last_seen_at) : 'never'));
	}

	async function load(further) {
		try {
			const params = {limit: 60, ...(search.value && {search: search.value})};
			if (further)
				params.after = rows.at(-1).device;
			else if (rows.length > params.limit)
				params.limit = Math.min(200, rows.length);
			const page = await link.query('fleet', params);
			rows = further ? [...rows, ...page.rows] : page.rows;
			more = page.more;
		} catch (error) {
			note.replaceChildren(problem(error));
			return;
		}
		readings = [];
		note.replaceChildren(rows.length > 0 ? '' : h('p', {class: 'empty'}, search.value
			? 'No device of that name.' : 'There is no device that you may see yet.'));
		const focused = document.activeElement?.getAttribute('href');
		list.replaceChildren(...rows.map(card));
		if (focused)
			list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
		moreButton.hidden = !more;
		link.watch(rows.map(row => row.device).slice(0, 200));
	}

	return {
		refresh: () => load(false),
		event: () => load(false),
		measurement: message => readings.forEach(reading => reading.take(message)),
	};
}

// ---------------------------------------------------------------------------------- one device

const FINAL = {COMPLETED: ['carried out', 'good'], FAILED: ['refused', 'bad'],
	CANCELLED: ['rolled back', 'bad'], COMMITTED: ['on its way', 'warn'], PROCESSING: ['begun', 'warn']};

function statusBadge(status) {
	const [text, kind] = FINAL[status] ?? [status, ''];
	return badge(text, kind);
}

const STEP_WORDS = {
	'command.value_set': 'Command recorded',
	'dm.value_set_approved': 'Device Service: in bounds, value set',
	'dm.value_set_error': 'Device Service: refused',
	'dm.value_set_cancelled': 'Device Service: earlier value put back',
	'adapter.value_set_sent': 'Adapter: the device confirmed',
	'adapter.value_set_error': 'Adapter: the device did not do it',
};

function stepItem(step) {
	const kind = step.status === 'FAILED' || step.status === 'CANCELLED' ? 'bad'
		: step.status === 'PROCESSING' && step.service === 'adapter' ? 'warn' : 'good';
	const words = STEP_WORDS[step.event] ?? (step.service === 'adapter' && step.status === 'PROCESSING'
		? 'Adapter: sent, waiting for the device' : `${step.service}: ${step.status}`);
	return h('li', {class: kind}, h('strong', {}, words), ' ',
		h('span', {class: 'quiet'}, [step.detail, step.at && new Date(step.at).toLocaleTimeString()]
			.filter(Boolean).join(' · ')));
}

// Shows a saga step by step until it has its end.
function sagaView(commandId, onEnd) {
	const steps = h('ol', {class: 'saga', 'aria-live': 'polite', 'aria-label': 'Steps of the command'});
	let timer = null;
	let over = false;

	async function look() {
		clearTimeout(timer);
		try {
			const saga = await link.query('timeline', {command_id: commandId});
			if (over)
				return;
			const ended = ['COMPLETED', 'FAILED', 'CANCELLED'].includes(saga.status);
			if (saga.steps.length !== steps.childElementCount - (ended ? 0 : 1) || ended)
				steps.replaceChildren(...saga.steps.map(stepItem),
					...ended ? [h('li', {class: 'end'}, statusBadge(saga.status))] : [h('li', {class: 'wait'}, '…')]);
			if (ended) {
				over = true;
				onEnd(saga.status);
				return;
			}
		} catch (error) {
			// looked at again: by then the connection may be back
			if (error instanceof Refused) {
				steps.replaceChildren(h('li', {class: 'bad'}, error.message));
				return;
			}
		}
		timer = setTimeout(look, POLL_MS);
	}
	look();
	return {steps, look, leave: () => { over = true; clearTimeout(timer); }};
}

function commandForm(device, sensors, onSent) {
	const note = h('div', {'aria-live': 'assertive'});
	const parameter = h('select', {id: 'parameter', onchange: showField},
		...sensors.map(sensor => h('option', {value: sensor.parameter}, sensor.parameter)));
	const field = h('span');
	const action = h('select', {id: 'action'}, h('option', {value: 'set'}, 'set to'),
		h('option', {value: 'add'}, 'change by'));
	const button = h('button', {type: 'submit', class: 'primary'}, 'Send');
	let request = null;			// {text, id}: the same order again has the same id

	const chosen = () => sensors.find(sensor => sensor.parameter === parameter.value);
	function showField() {
		const sensor = chosen();
		const words = Object.keys(sensor.labels ?? {});
		const bounds = sensor.value_min != null || sensor.value_max != null
			? ` (${sensor.value_min ?? '…'} to ${sensor.value_max ?? '…'})` : '';
		action.disabled = words.length > 0;
		if (action.disabled)
			action.value = 'set';
		field.replaceChildren(h('label', {for: 'value'}, `Value${sensor.unit ? ` in ${sensor.unit}` : ''}${bounds} `,
			words.length > 0
				? h('select', {id: 'value'}, ...words.map(word => h('option', {}, word)))
				: h('input', {id: 'value', type: 'number', step: 'any', required: true, inputmode: 'decimal'})));
	}

	async function send(event) {
		event.preventDefault();
		const order = {device, parameter: parameter.value, action: action.value,
			value: field.querySelector('#value').value};
		const text = JSON.stringify(order);
		if (request?.text !== text)
			request = {text, id: uuid()};
		button.disabled = true;
		note.replaceChildren();
		try {
			const sent = await link.ask('command', {...order, request_id: request.id});
			request = null;
			onSent(sent);
		} catch (error) {
			// where nobody knows, sending it again finds the same command
			if (error instanceof Refused && error.code !== 'unknown_outcome')
				request = null;
			note.replaceChildren(problem(error));
		}
		button.disabled = false;
	}

	const form = h('form', {class: 'order', onsubmit: send}, h('label', {for: 'parameter'}, 'Parameter ', parameter),
		h('label', {for: 'action'}, 'Action ', action), field, button);
	showField();
	return h('div', {}, form, note);
}

const RANGES = [['1 hour', 3600e3], ['24 hours', 86400e3], ['7 days', 7 * 86400e3], ['30 days', 30 * 86400e3]];

function historyBox(device, sensors) {
	let range = RANGES[0][1];
	let timer = null;
	let asked = 0;
	const picture = h('div', {class: 'picture'});
	const choose = h('select', {id: 'series', onchange: draw},
		...sensors.map(sensor => h('option', {value: sensor.parameter}, sensor.parameter)));
	const buttons = RANGES.map(([label, ms]) => h('button', {type: 'button', 'aria-pressed': String(ms === range),
		onclick: event => {
			range = ms;
			buttons.forEach(button => button.setAttribute('aria-pressed', String(button === event.currentTarget)));
			draw();
		}}, label));

	async function draw() {
		clearTimeout(timer);
		const sensor = sensors.find(s => s.parameter === choose.value);
		const until = Date.now(), since = until - range;
		const mine = ++asked;
		try {
			const {points} = await link.query('history', {device, parameter: sensor.parameter,
				since: new Date(since).toISOString(), until: new Date(until + 1000).toISOString(), points: 400});
			if (mine === asked)
				picture.replaceChildren(plot(points, since, until, {unit: sensor.unit,
					label: `${sensor.parameter} of ${device}, ${points.length} points`}));
		} catch (error) {
			if (mine === asked)
				picture.replaceChildren(problem(error));
		}
	}

	return {
		box: h('section', {class: 'panel', 'aria-labelledby': 'history'}, h('h2', {id: 'history'}, 'History'),
			h('div', {class: 'choices'}, h('label', {for: 'series'}, 'Parameter ', choose),
				h('span', {role: 'group', 'aria-label': 'Range'}, ...buttons)), picture),
		draw,
		// new values move the picture on, at most every two seconds
		soon() { timer ??= setTimeout(() => { timer = null; draw(); }, 2000); },
	};
}

function alarmItem(alarm, onChange, withDevice = true) {
	const note = h('div', {'aria-live': 'polite'});
	const button = (words, op) => h('button', {type: 'button', onclick: async event => {
		event.currentTarget.disabled = true;
		try {
			await link.ask(op, {alarm_id: alarm.alarm_id});
			onChange();
		} catch (error) {
			event.target.disabled = false;
			note.replaceChildren(problem(error));
		}
	}, 'aria-label': `${words} alarm of ${alarm.device}: ${alarm.message}`}, words);
	const open = alarm.status === 'OPENED';
	return h('li', {class: `alarm ${open ? alarm.severity : 'closed'}`, 'data-alarm': alarm.alarm_id},
		h('div', {class: 'card-head'}, badge(open ? alarm.severity : 'closed', open ? alarm.severity === 'red' ? 'bad' : 'warn' : 'quiet'),
			h('strong', {}, alarm.message || alarm.rule), withDevice ? deviceLink(alarm.device) : null),
		h('p', {class: 'quiet'}, alarm.rule, ' · opened ', time(alarm.opened_at),
			...alarm.acknowledged_at ? [` · acknowledged by ${alarm.acknowledged_by} `, time(alarm.acknowledged_at)] : [],
			...alarm.assignee ? [` · assigned to ${alarm.assignee}`] : [],
			...open ? [] : [' · closed ', time(alarm.closed_at), alarm.close_reason ? `: ${alarm.close_reason}` : '']),
		open ? h('div', {class: 'actions'}, alarm.acknowledged_at ? null : button('Acknowledge', 'acknowledge'),
			button('Close', 'close')) : null, note);
}

function deviceView(name) {
	let readings = [];
	let history = null;
	let saga = null;
	const head = h('div', {class: 'heading'}, h('h1', {}, name));
	const values = h('div', {class: 'values'});
	const order = h('section', {class: 'panel', 'aria-labelledby': 'order'});
	const alarms = h('ul', {class: 'plain-list'});
	const commands = h('div', {class: 'scroll'});
	const plotPlace = h('div');
	main.replaceChildren(head, values, plotPlace, order,
		h('section', {class: 'panel', 'aria-labelledby': 'alarms'}, h('h2', {id: 'alarms'}, 'Alarms'), alarms),
		h('section', {class: 'panel', 'aria-labelledby': 'commands'}, h('h2', {id: 'commands'}, 'Commands'), commands));

	function showCommand(id) {
		saga?.leave();
		saga = sagaView(id, () => refresh());
		order.querySelector('.saga')?.remove();
		order.append(saga.steps);
	}

	function commandRow(command) {
		return h('tr', {}, h('td', {}, time(command.created_at)),
			h('td', {}, `${command.parameter} ${command.action === 'add' ? 'by' : 'to'} ${valueText(command.value, command.unit)}`),
			h('td', {}, statusBadge(command.status)), h('td', {}, command.error ?? ''), h('td', {}, command.username),
			h('td', {}, h('button', {type: 'button', class: 'plain', 'aria-label': `Steps of the command of ${command.username}`,
				onclick: () => showCommand(command.command_id)}, 'Steps')));
	}

	async function refresh() {
		try {
			const [device, alarmPage, commandPage] = await Promise.all([link.query('device', {device: name}),
				link.query('alarms', {device: name, open: false, limit: 20}),
				link.query('commands', {device: name, limit: 20})]);
			head.replaceChildren(h('h1', {}, name), onlineBadge(device.online),
				h('span', {class: 'quiet'}, `${device.group} · ${device.type} · seen `,
					device.last_seen_at ? time(device.last_seen_at) : 'never'));
			readings = device.sensors.map(sensor => liveValue(name, sensor));
			values.replaceChildren(...readings.map(reading => reading.box));
			if (!history && device.sensors.length > 0) {
				history = historyBox(name, device.sensors);
				plotPlace.replaceChildren(history.box);
				history.draw();
			}
			if (order.childElementCount === 0) {
				order.append(h('h2', {id: 'order'}, 'Send a command'),
					!device.may_operate ? h('p', {class: 'quiet'}, 'You may look at this device, not operate it.')
					: device.sensors.length === 0 ? h('p', {class: 'quiet'}, 'It has no parameter yet.')
					: commandForm(name, device.sensors, sent => { showCommand(sent.command_id); refresh(); }));
			}
			alarms.replaceChildren(...alarmPage.rows.length > 0
				? alarmPage.rows.map(alarm => alarmItem(alarm, refresh, false)) : [h('li', {class: 'empty'}, 'none')]);
			commands.replaceChildren(commandPage.rows.length > 0
				? h('table', {}, h('thead', {}, h('tr', {}, ...['When', 'What', 'Status', 'Error', 'By', '']
					.map(words => h('th', {scope: 'col'}, words)))), h('tbody', {}, ...commandPage.rows.map(commandRow)))
				: h('p', {class: 'empty'}, 'none'));
			link.watch([name]);
		} catch (error) {
			head.replaceChildren(h('h1', {}, name), problem(error));
		}
	}

	return {
		refresh,
		event(message) {
			if (message.device !== name)
				return;
			saga?.look();
			refresh();
		},
		measurement(message) {
			readings.forEach(reading => reading.take(message));
			if (message.device === name)
				history?.soon();
		},
		leave: () => saga?.leave(),
	};
}

// ---------------------------------------------------------------------------------- alarms

function alarmsView() {
	const list = h('ul', {class: 'plain-list', 'aria-label': 'Open alarms'});
	const note = h('div', {'aria-live': 'polite'});
	main.replaceChildren(h('div', {class: 'heading'}, h('h1', {}, 'Open alarms')), note, list);
	link.watch([]);

	async function refresh() {
		try {
			const page = await link.query('alarms', {limit: 200});
			list.replaceChildren(...page.rows.map(alarm => alarmItem(alarm, refresh)));
			note.replaceChildren(page.rows.length === 0 ? h('p', {class: 'empty'}, 'All is quiet.')
				: page.more ? h('p', {class: 'quiet'}, 'The newest 200 are shown.') : '');
			countAlarms();
		} catch (error) {
			note.replaceChildren(problem(error));
		}
	}
	return {refresh, event: message => message.event.startsWith('alarm') && refresh()};
}

// ---------------------------------------------------------------------------------- notifications

function newsItem(item) {
	return h('li', {class: item.read ? 'news' : 'news unread'}, h('strong', {}, item.title), ' ',
		item.device ? deviceLink(item.device) : null,
		h('p', {class: 'quiet'}, item.event, ' · ', time(item.at), item.body?.error ? ` · ${item.body.error}` : '',
			item.body?.text ? ` · ${item.body.text}` : ''));
}

function notificationsView() {
	const list = h('ul', {class: 'plain-list', 'aria-label': 'Notifications'});
	const note = h('div', {'aria-live': 'polite'});
	let newest = 0;
	const read = h('button', {type: 'button', onclick: async () => {
		try {
			await link.ask('read', {seq: newest});
			refresh();
		} catch (error) {
			note.replaceChildren(problem(error));
		}
	}}, 'Mark all as read');
	main.replaceChildren(h('div', {class: 'heading'}, h('h1', {}, 'Notifications'), read), note, list);
	link.watch([]);
	news = 0;
	showNews();

	async function refresh() {
		try {
			const page = await link.query('notifications', {head: link.seq, limit: 100});
			newest = page.rows[0]?.seq ?? 0;
			read.disabled = !page.rows.some(item => !item.read);
			list.replaceChildren(...page.rows.map(newsItem));
			note.replaceChildren(page.rows.length === 0 ? h('p', {class: 'empty'}, 'Nothing has happened yet.') : '');
		} catch (error) {
			note.replaceChildren(problem(error));
		}
	}
	return {refresh, event: refresh};
}

// ---------------------------------------------------------------------------------- logging in

function logInView(why) {
	const note = h('div', {'aria-live': 'assertive'}, why ? h('p', {class: 'problem'}, why) : '');
	const user = h('input', {id: 'username', name: 'username', autocomplete: 'username', required: true,
		autocapitalize: 'none', spellcheck: 'false', maxlength: 128});
	const password = h('input', {id: 'password', name: 'password', type: 'password', required: true,
		autocomplete: 'current-password', maxlength: 1000});
	const button = h('button', {type: 'submit', class: 'primary'}, 'Log in');
	main.replaceChildren(h('form', {class: 'log-in', onsubmit: async event => {
		event.preventDefault();
		button.disabled = true;
		note.replaceChildren();
		try {
			await link.logIn(user.value, password.value);
			link.connect();
		} catch (error) {
			note.replaceChildren(problem(error));
			password.value = '';
			password.focus();
		}
		button.disabled = false;
	}}, h('img', {src: 'icon.svg', alt: '', width: 48, height: 48}), h('h1', {}, 'Log in'), note,
	h('label', {for: 'username'}, 'User'), user, h('label', {for: 'password'}, 'Password'), password, button));
	user.focus();
	return {};
}

// ---------------------------------------------------------------------------------- the frame

function show(next) {
	view?.leave?.();
	view = next;
	view.refresh?.();
}

function route() {
	if (!link.loggedIn)
		return;
	const [, name = 'fleet', argument] = location.hash.split('/');
	let current = name;
	if (name === 'device' && argument) {
		show(deviceView(decodeURIComponent(argument)));
		current = 'fleet';
	}
	else if (name === 'alarms')
		show(alarmsView());
	else if (name === 'notifications')
		show(notificationsView());
	else {
		show(fleetView());
		current = 'fleet';
	}
	for (const anchor of document.querySelectorAll('#bar nav a')) {
		if (anchor.hash === `#/${current}`)
			anchor.setAttribute('aria-current', 'page');
		else
			anchor.removeAttribute('aria-current');
	}
	document.title = `${main.querySelector('h1')?.textContent ?? 'iot'} · iot`;
}

function count(id, number) {
	const element = document.getElementById(id);
	element.textContent = number;
	element.hidden = !number;
}

function showNews() { count('news-count', news); }

async function countAlarms() {
	try {
		count('alarm-count', (await link.query('me')).open_alarms);
	} catch {
		// told by the connection's own sign
	}
}

const lost = document.getElementById('lost');
let lostTimer = null;

// Which of several cells is looked at; nothing where there is one database.
function showCells() {
	const select = document.getElementById('cell');
	select.hidden = link.cells.size === 0;
	select.replaceChildren(...[...link.cells].map(([name, state]) => h('option',
		{value: name, selected: name === link.cell}, state === 'here' ? name : `${name} (${state})`)));
}

function showState({state, retryAt, why}) {
	const sign = document.getElementById('link');
	const out = state === 'out';
	showCells();
	if (state === 'ready' && (link.cells.get(link.cell) ?? 'here') !== 'here')
		state = link.cells.get(link.cell);
	document.getElementById('bar').hidden = out;
	document.getElementById('user').textContent = link.user ?? '';
	sign.textContent = {ready: 'live', connecting: 'connecting', lost: 'not connected',
		away: 'cell is away', refused: 'not allowed here'}[state] ?? '';
	sign.className = `link ${state}`;
	clearInterval(lostTimer);
	if (state === 'ready') {
		if (!lost.hidden)
			toast('The connection is back.', 'good');
		lost.hidden = true;
		route();
		countAlarms();
	}
	else if (state === 'lost') {
		const seconds = h('span');
		lost.replaceChildren(h('strong', {}, 'The connection to the server is lost.'),
			' What you see may be old. Trying again ', seconds, ' ',
			h('button', {type: 'button', onclick: () => link.retry()}, 'Try now'));
		lost.hidden = false;
		const tick = () => {
			const left = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
			seconds.textContent = left > 0 ? `in ${left} s.` : 'now.';
		};
		tick();
		lostTimer = setInterval(tick, 500);
	}
	else if (state === 'away' || state === 'refused') {
		lost.replaceChildren(h('strong', {}, state === 'away' ? `The server of ${link.cell} is away.`
			: `You have no access to ${link.cell}.`), ' What you see of it may be old.');
		lost.hidden = false;
	}
	else if (out) {
		lost.hidden = true;
		view?.leave?.();
		view = logInView(why);
	}
}

link.addEventListener('state', ({detail}) => showState(detail));
link.addEventListener('cells', showCells);
link.addEventListener('event', ({detail}) => {
	toast(detail.here ? detail.title : `${detail.cell}: ${detail.title}`, detail.event === 'alarm.opened' || detail.event.endsWith('_error') ? 'bad' : '');
	if (!detail.here)
		return;
	if (!location.hash.startsWith('#/notifications')) {
		news++;
		showNews();
	}
	if (detail.event.startsWith('alarm'))
		countAlarms();
	view?.event?.(detail);
});
link.addEventListener('measurement', ({detail}) => view?.measurement?.(detail));
link.addEventListener('reset', () => view?.refresh?.());
document.getElementById('cell').addEventListener('change', ({target}) => {
	history.replaceState(null, '', '#/fleet');
	link.look(target.value);
});
document.getElementById('log-out').addEventListener('click', () => link.logOut());
window.addEventListener('hashchange', () => { route(); main.focus(); });
window.addEventListener('online', () => link.retry());
setInterval(() => {
	for (const element of document.querySelectorAll('[data-age]'))
		element.textContent = age(element.dataset.age);
}, 5000);
setInterval(() => link.ready && document.visibilityState === 'visible' && view?.refresh?.(), REFRESH_MS);

if (link.loggedIn)
	link.connect();
else
	showState({state: 'out'});

// The connection to iot-pushd: says who is here, asks, subscribes, and comes back by itself.
//
// Everything that waits for an answer fails when the connection is lost; subscriptions are made
// again when it is back, events from where they stopped.  See doc/push.md for the protocol.
//
// Where the daemon listens to several cells, one of them is looked at and asked: events of all are
// told, and positions are kept for each.

const RETRY_FIRST_MS = 500;
const RETRY_MOST_MS = 15000;
const ANSWER_MS = 15000;

export class Refused extends Error {
	constructor(message) {
		super(message.message);
		this.code = message.code;
		this.hint = message.hint;
	}
}

export class Link extends EventTarget {
	#socket = null;
	#token = sessionStorage.getItem('token');
	#positions = new Map();		// cell -> {seq, epoch} of the last event that was seen
	#ready = false;
	#retryMs = RETRY_FIRST_MS;
	#timer = null;
	#nextId = 10;
	#waiting = new Map();		// id -> {resolve, reject, timer}
	#live = null;				// {devices, id}
	user = null;
	seq = 0;
	cells = new Map();			// name -> state; empty where there is one database
	cell = null;				// the one that is looked at

	get loggedIn() { return this.#token !== null; }
	get ready() { return this.#ready; }

	#tell(type, detail) { this.dispatchEvent(new CustomEvent(type, {detail})); }

	#open() {
		const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
		return new WebSocket(`${scheme}//${location.host}/ws`);
	}

	// Trades a name and a password for a token, over a connection of its own.
	logIn(username, password) {
		return new Promise((resolve, reject) => {
			const socket = this.#open();
			let answered = false;
			socket.onopen = () => socket.send(JSON.stringify({op: 'login', username, password}));
			socket.onmessage = ({data}) => {
				const message = JSON.parse(data);
				answered = true;
				socket.close();
				if (message.op !== 'token') {
					reject(new Refused(message));
					return;
				}
				this.#token = message.token;
				sessionStorage.setItem('token', message.token);
				resolve();
			};
			socket.onclose = () => answered ||
				reject(new Error('The server cannot be reached. Try again in a moment.'));
		});
	}

	// Ends the token at the server too, where that can be told.
	async logOut() {
		const cells = [...this.cells.keys()].filter(name => this.cells.get(name) === 'here');
		if (this.#ready)
			await Promise.all((cells.length > 0 ? cells.map(cell => ({cell})) : [{}])
				.map(where => this.ask('logout', where).catch(() => {})));
		this.#forget();
	}

	#forget() {
		this.#token = null;
		this.#positions.clear();
		sessionStorage.removeItem('token');
		clearTimeout(this.#timer);
		this.#socket?.close(1000);
	}

	connect() {
		clearTimeout(this.#timer);
		const socket = this.#socket = this.#open();
		this.#tell('state', {state: 'connecting'});
		socket.onopen = () => socket.send(JSON.stringify({op: 'auth', token: this.#token}));
		socket.onmessage = ({data}) => {
			const messages = JSON.parse(data);
			for (const message of Array.isArray(messages) ? messages : [messages])
				this.#take(message);
		};
		socket.onclose = ({code}) => socket === this.#socket && this.#closed(code);
	}

	#closed(code) {
		this.#ready = false;
		for (const {reject, timer} of this.#waiting.values()) {
			clearTimeout(timer);
			reject(new Error('The connection was lost. Whether it was done is not known.'));
		}
		this.#waiting.clear();
		if (this.#token === null) {
			this.#tell('state', {state: 'out'});
			return;
		}
		if (code === 4401 || code === 4001) {
			this.#forget();
			this.#tell('state', {state: 'out', why: code === 4001 ? 'Your session has ended.'
				: 'Your session is not valid any more.'});
			return;
		}
		const wait = this.#retryMs * (0.7 + 0.6 * Math.random());
		this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MOST_MS);
		this.#tell('state', {state: 'lost', retryAt: Date.now() + wait});
		this.#timer = setTimeout(() => this.connect(), wait);
	}

	// Now, instead of when the pause is over.
	retry() {
		if (!this.#ready && this.#token !== null && this.#socket?.readyState !== WebSocket.CONNECTING)
			this.connect();
	}

	#send(message) { this.#socket.send(JSON.stringify(message)); }

	#take(message) {
		switch (message.op) {
			case 'ready':
				this.#ready = true;
				this.#retryMs = RETRY_FIRST_MS;
				this.user = message.user;
				this.#lookAt(message.cells);
				for (const [cell, head] of message.cells ? Object.entries(message.cells) : [[null, message]])
					this.#begin(cell, head);
				this.#send({op: 'subscribe', id: 1, events: ['*'], ...this.#after()});
				this.#subscribeLive();
				this.#tell('state', {state: 'ready'});
				break;
			case 'cell':
				this.cells.set(message.cell, message.state);
				this.#begin(message.cell, message);
				this.#tell('cells');
				if (message.cell === this.cell)
					this.#tell('state', {state: 'ready'});
				break;
			case 'event': {
				const position = this.#positions.get(message.cell ?? null);
				if (position)
					position.seq = Math.max(position.seq, message.seq);
				if (this.#isHere(message))
					this.seq = Math.max(this.seq, message.seq);
				this.#tell('event', {...message, here: this.#isHere(message)});
				break;
			}
			case 'measurement':
				this.#tell('measurement', message);
				break;
			case 'reset':
				this.#positions.set(message.cell ?? null, {seq: message.seq, epoch: message.epoch});
				if (this.#isHere(message))
					this.#tell('reset', message);
				break;
			case 'result':
			case 'error': {
				const asked = this.#waiting.get(message.id);
				if (!asked)
					break;
				clearTimeout(asked.timer);
				this.#waiting.delete(message.id);
				if (message.op === 'result')
					asked.resolve(message.data);
				else
					asked.reject(new Refused(message));
			}
		}
	}

	#isHere(message) { return (message.cell ?? null) === this.cell; }

	// Chooses the cell that the user looked at last, or else one that is there.
	#lookAt(cells) {
		this.cells = new Map(Object.entries(cells ?? {}).map(([name, {state}]) => [name, state]));
		const last = this.cell ?? sessionStorage.getItem('cell');
		const names = [...this.cells.keys()];
		this.cell = this.cells.has(last) ? last
			: names.find(name => this.cells.get(name) === 'here') ?? names[0] ?? null;
	}

	look(cell) {
		this.cell = cell;
		sessionStorage.setItem('cell', cell);
		this.seq = this.#positions.get(cell)?.seq ?? 0;
		this.#tell('state', {state: 'ready'});
	}

	// Where a cell stands that is seen for the first time.
	#begin(cell, {seq, epoch}) {
		if (seq === undefined)
			return;
		if (!this.#positions.has(cell))
			this.#positions.set(cell, {seq, epoch});
		if (cell === this.cell)
			this.seq = seq;
	}

	#after() {
		if (this.cell === null)
			return {after_seq: this.#positions.get(null).seq, epoch: this.#positions.get(null).epoch};
		return {after: Object.fromEntries([...this.#positions].filter(([cell]) => this.cells.has(cell)))};
	}

	// Sends a request and waits for its answer.
	ask(op, fields = {}) {
		return new Promise((resolve, reject) => {
			if (!this.#ready) {
				reject(new Error('There is no connection to the server just now.'));
				return;
			}
			const id = this.#nextId++;
			const timer = setTimeout(() => {
				this.#waiting.delete(id);
				reject(new Error('The server did not answer in time.'));
			}, ANSWER_MS);
			this.#waiting.set(id, {resolve, reject, timer});
			this.#send({op, id, ...this.#to(), ...fields});
		});
	}

	#to() { return this.cell === null ? {} : {cell: this.cell}; }

	query(query, params = {}) { return this.ask('query', {query, params}); }

	// Measurements of these devices as they come, instead of those asked for before.
	watch(devices) {
		if (this.#ready && this.#live?.id)
			this.#send({op: 'unsubscribe', id: this.#live.id});
		this.#live = devices.length > 0 ? {devices, id: 0} : null;
		if (this.#ready)
			this.#subscribeLive();
	}

	#subscribeLive() {
		if (!this.#live)
			return;
		this.#live.id = this.#nextId++;
		this.#send({op: 'live', id: this.#live.id, devices: this.#live.devices, ...this.#to()});
	}
}

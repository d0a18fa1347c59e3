// A bridge from MQTT to PostgreSQL as one would write it in Node.js: batches, one multi-row insert each,
// nothing else: no current values, no rollups, no alarms.  It ends when it has stored so many messages.
//
// It acknowledges before it commits.  mqtt.js hands over the next message when the last one is
// acknowledged, so that commit before acknowledgement would mean a commit for each message.
//
//   node bridge.js PORT USER PASSWORD-FILE MESSAGES WINDOW     (PGHOST, PGPORT... for the database)
'use strict';

const fs = require('fs');
const mqtt = require('mqtt');
const { Pool } = require('pg');

const [port, username, passwordFile, messages, window] = process.argv.slice(2);
const batchSize = 1000;
const batchMs = 10;
const pool = new Pool({ max: 1 });
const sql = `INSERT INTO peer.measurement (device, parameter, ts, value)
	SELECT u.device, u.parameter, pg_catalog.to_timestamp(u.ms / 1000), u.value
	FROM unnest($1::text[], $2::text[], $3::float8[], $4::float8[]) AS u (device, parameter, ms, value)
	ON CONFLICT DO NOTHING`;

let waiting = [];
let stored = 0;
let busy = false;
let timer = null;

async function flush() {
	if (timer !== null) {
		clearTimeout(timer);
		timer = null;
	}
	if (busy || waiting.length === 0)
		return;
	busy = true;
	const batch = waiting;
	waiting = [];
	const devices = [], parameters = [], times = [], values = [];
	for (const [topic, payload] of batch) {
		const device = topic.split('/')[1];
		const message = JSON.parse(payload);
		for (const parameter of Object.keys(message.values)) {
			devices.push(device);
			parameters.push(parameter);
			times.push(message.ts);
			values.push(message.values[parameter]);
		}
	}
	await pool.query({ name: 'insert', text: sql, values: [devices, parameters, times, values] });
	stored += batch.length;
	busy = false;
	if (stored >= Number(messages)) {
		await pool.end();
		client.end(true, () => process.exit(0));
	}
	else if (waiting.length >= batchSize)
		setImmediate(flush);
	else if (waiting.length > 0 && timer === null)
		timer = setTimeout(flush, batchMs);
}

const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
	username,
	password: fs.readFileSync(passwordFile, 'utf8').trim(),
	protocolVersion: 5,
	properties: { receiveMaximum: Number(window) },
});
client.on('error', (error) => { console.error(error); process.exit(1); });
client.on('connect', () => client.subscribe('iot/+/telemetry', { qos: 1 }, () => console.log('ready')));
client.on('message', (topic, payload) => {
	waiting.push([topic, payload]);
	if (waiting.length >= batchSize)
		flush();
	else if (timer === null && !busy)
		timer = setTimeout(flush, batchMs);
});

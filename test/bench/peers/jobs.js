// Commands as one would make them with a job queue in Node.js: graphile-worker or pg-boss.  The rows and
// the three commits of a command are those of by_hand.sql, read from there: the command is sent together
// with its job; the job notes that it is taken up, publishes to the device, waits for its answer, and
// notes the outcome.
//
//   node jobs.js graphile-worker|pg-boss BROKER-PORT USER PASSWORD-FILE SEND.SQL BY-HAND.SQL DEVICES CLIENTS SECONDS
//
// Prints "ready" when it works; on the line "go" on standard input, so many clients of its own process
// send and wait for the outcome, for so long, and it prints commands a second, and the median and the
// 99th percentile in milliseconds.  Works on until it is ended.
'use strict';

const fs = require('fs');
const mqtt = require('mqtt');
const { Pool } = require('pg');

const [kind, port, username, passwordFile, sendFile, byHandFile, devices, clients, seconds] = process.argv.slice(2);
const jobsAtOnce = 100;
const pool = new Pool({ max: 16 });
const answers = new Map();		// command id: who waits for the device
const outcomes = new Map();		// command id: who waits for the end of the command
const done = new Set();			// ended before anybody waited

// pgbench's scripts name what node-postgres numbers.
function statement(name, text, ...variables)
{
	for (const [i, variable] of variables.entries())
		text = text.replaceAll(new RegExp(`:${variable}\\b`, 'g'), `$${i + 1}`);
	return { name, text };
}

const send = statement('send', fs.readFileSync(sendFile, 'utf8').replace(/^\\set.*\n/gm, ''), 'device', 'level');
const [takeText, finishText] = fs.readFileSync(byHandFile, 'utf8').split('\\gset\n')[1].split(';\n');
const take = statement('take', takeText, 'id', 'command');
const finish = statement('finish', finishText, 'id', 'command', 'level');
finish.text = finish.text.replaceAll('$3', '$3::float8');

const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
	username,
	password: fs.readFileSync(passwordFile, 'utf8').trim(),
	protocolVersion: 5,
	properties: { receiveMaximum: 1000 },
});
client.on('error', fail);
client.on('message', (topic, payload) => {
	const answer = JSON.parse(payload);
	answers.get(answer.id)?.(answer);
	answers.delete(answer.id);
});

function fail(error)
{
	console.error(error);
	process.exit(1);
}

async function carryOut({ id, command, device, level })
{
	await pool.query({ ...take, values: [id, command] });
	const answer = new Promise((resolve) => answers.set(command, resolve));
	client.publish(`iot/${device}/command`,
		JSON.stringify({ id: command, parameter: 'level', action: 'set', value: level, version: 1 }), { qos: 1 });
	if (!(await answer).ok)
		throw new Error('the device has refused');
	await pool.query({ ...finish, values: [id, command, level] });
	if (outcomes.has(command))
		outcomes.get(command)();
	else
		done.add(command);
	outcomes.delete(command);
}

// Each returns what a client of the same process does after it has sent.
const queues = {
	'graphile-worker': async () => {
		const { run, Logger } = require('graphile-worker');

		await run({
			pgPool: pool,
			noHandleSignals: true,
			logger: new Logger(() => () => {}),
			taskList: { send: carryOut },
			preset: { worker: { concurrentJobs: jobsAtOnce, localQueue: { size: jobsAtOnce + 1 } } },
		});
		return () => {};
	},
	'pg-boss': async () => {
		const PgBoss = require('pg-boss');
		const boss = new PgBoss({ db: { executeSql: (text, values) => pool.query(text, values) } });
		let worker = null;

		boss.on('error', fail);
		await boss.start();
		await boss.createQueue('send');
		// it looks again at once while there is work, not when half a second is over
		worker = await boss.work('send', { batchSize: jobsAtOnce, pollingIntervalSeconds: 0.5 }, async (jobs) => {
			await Promise.all(jobs.map((job) => carryOut(job.data)));
			boss.notifyWorker(worker);
		});
		return () => boss.notifyWorker(worker);
	},
};

async function measure(sent)
{
	const end = Date.now() + 1000 * seconds;
	const times = [];

	await Promise.all(Array.from({ length: Number(clients) }, async () => {
		while (Date.now() < end) {
			const start = process.hrtime.bigint();
			const values = [1 + Math.floor(Math.random() * devices), Math.floor(Math.random() * 1000)];
			const { rows: [{ command }] } = await pool.query({ ...send, values });
			sent();
			if (!done.delete(command))
				await new Promise((resolve) => outcomes.set(command, resolve));
			times.push(Number(process.hrtime.bigint() - start) / 1e6);
		}
	}));
	times.sort((a, b) => a - b);
	const at = (share) => times[Math.floor(share * (times.length - 1))].toFixed(1);
	console.log(Math.round(times.length / seconds), at(0.5), at(0.99));
}

async function main()
{
	await new Promise((resolve) => client.once('connect', resolve));
	await client.subscribeAsync('iot/+/command/ack', { qos: 1 });
	const sent = await queues[kind]();
	process.stdin.once('data', () => measure(sent).catch(fail));
	console.log('ready');
}

main().catch(fail);

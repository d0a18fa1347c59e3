// Live notifications as one would make them in Node.js: a server of the package ws that LISTENs, reads the
// rows that are new, and sends each to every socket, a frame each.  It answers the clients of the push
// daemon as far as they ask, trusts every token, and asks for no one's rights.
//
//   node broadcast.js PORT     (PGHOST, PGPORT... for the database)
'use strict';

const { WebSocketServer, WebSocket } = require('ws');
const { Client } = require('pg');

const database = new Client();
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]), perMessageDeflate: false,
	backlog: 4096 });
let afterSeq = 0;
let reading = Promise.resolve();

async function broadcast()
{
	const { rows } = await database.query({ name: 'read', values: [afterSeq], text:
		`SELECT seq, event, device, title, body, username, event_at AS at
			FROM iot.notification WHERE seq > $1 ORDER BY seq` });
	for (const row of rows) {
		afterSeq = row.seq;
		const text = JSON.stringify({ op: 'event', ...row });
		for (const socket of server.clients)
			if (socket.readyState === WebSocket.OPEN && socket.subscribed)
				socket.send(text);
	}
}

server.on('connection', (socket) => {
	socket.on('error', () => socket.terminate());
	socket.on('message', (data) => {
		const message = JSON.parse(data);
		if (message.op === 'subscribe') {
			socket.subscribed = true;
			socket.send(JSON.stringify({ op: 'subscribed', id: message.id }));
		}
		else
			socket.send(JSON.stringify({ op: 'ready', user: 'bench', epoch: '0', seq: afterSeq }));
	});
});

async function main()
{
	await database.connect();
	afterSeq = (await database.query('SELECT coalesce(max(seq), 0) AS seq FROM iot.notification')).rows[0].seq;
	database.on('notification', () => { reading = reading.then(broadcast); });
	await database.query('LISTEN iot_push');
	console.log('ready');
}

main().catch((error) => { console.error(error); process.exit(1); });

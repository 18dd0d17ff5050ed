// MQTT.js on Node, over a WebSocket.
'use strict';
const mqtt = require('mqtt');
const [url, token] = process.argv.slice(2);

const client = mqtt.connect(url, { reconnectPeriod: 0, wsOptions: { headers: { Authorization: `Bearer ${token}` } } });
let error = '';
client.on('error', err => { error = `\`error\` "${err.message}", `; });
client.on('connect', async () => {
  client.once('message', () => console.log('open'));
  await client.subscribeAsync('greeting');
  await client.publishAsync('greeting', 'hello');
});
client.on('close', () => setTimeout(() => { // an error may come after it
  console.log(`shown ${error}\`close\`, no code`);
  process.exit();
}, 100));

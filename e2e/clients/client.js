// A conversation of the ws library with an agent (agent.js, agent.py), reported as one line of JSON:
//   node client.js URL TOKEN
'use strict';
const { randomBytes } = require('node:crypto');
const { once } = require('node:events');
const WebSocket = require('ws');

const [url, token] = process.argv.slice(2);

// open connects and gives the socket and a function that waits for the next message; none is lost, as they are queued.
async function open() {
  const ws = new WebSocket(url, ['bearer', token], { perMessageDeflate: { threshold: 0 } });
  const queue = [], waiting = [];
  ws.on('message', (data, binary) => {
    const message = binary ? data : data.toString();
    waiting.length ? waiting.shift()(message) : queue.push(message);
  });
  await once(ws, 'open');
  const next = () => new Promise(resolve => (queue.length ? resolve(queue.shift()) : waiting.push(resolve)));
  return [ws, next];
}

async function main() {
  let [ws, next] = await open();
  const report = { protocol: ws.protocol, extensions: ws.extensions, hello: JSON.parse(await next()) };

  ws.send('grüße');
  report.text = await next();
  for (const [name, sent] of [['random', randomBytes(1 << 20)], ['zeros', Buffer.alloc(4 << 20)]]) {
    ws.send(sent);
    report[name] = sent.equals(await next());
  }
  ws.ping('are you there');
  report.pong = (await once(ws, 'pong'))[0].toString();
  ws.close(4001, 'the client has enough');
  report.answered = (await once(ws, 'close'))[0];

  [ws, next] = await open();
  await next();
  ws.send('close 4002 the agent has enough');
  const [code, reason] = await once(ws, 'close');
  report.told = `${code} ${reason}`;
  console.log(JSON.stringify(report));
}

main().catch(err => {
  console.error(err);
  process.exit(1);
});

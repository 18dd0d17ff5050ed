// An agent on the ws library: greets with what it was told, pings, echoes, and closes when it is asked to ("close 4002 why"). Its first
// line of output is its port; each connection that has ended is one more, code and reason.
'use strict';
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: { threshold: 0 } });
server.on('listening', () => console.log(server.address().port));
server.on('connection', (ws, request) => {
  ws.on('close', (code, reason) => console.log(`${code} ${reason}`));
  ws.on('message', (data, binary) => {
    const [, code, reason] = (!binary && /^close (\d+) (.*)/.exec(data.toString())) || [];
    code ? ws.close(Number(code), reason) : ws.send(data, { binary });
  });
  ws.once('pong', () => ws.send(JSON.stringify({ user: request.headers['x-user-id'], protocol: ws.protocol, extensions: ws.extensions })));
  ws.ping('before anything else');
});

// The ws library of Node.
'use strict';
const WebSocket = require('ws');
const [url, token] = process.argv.slice(2);

const ws = new WebSocket(url, { headers: { Authorization: `Bearer ${token}` } });
ws.on('open', () => console.log('open'));
ws.on('unexpected-response', (_, response) => {
  const [, word] = /error_description="([^"]*)"/.exec(response.headers['www-authenticate']);
  console.log(`shown \`unexpected-response\` ${response.statusCode} ${word}`);
  process.exit();
});
ws.on('close', (code, reason) => console.log(`shown \`close\` ${code} "${reason}"`));

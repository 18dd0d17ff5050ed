// A page in headless Chromium, served on a port of its own, with the browser's WebSocket or with socket.io:
//   node chromium.js CHROMIUM websocket|socket.io URL TOKEN
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { chromium } = require('playwright-core');

const socketIO = path.join(path.dirname(require.resolve('socket.io-client/package.json')), 'dist/socket.io.min.js');

const [executablePath, library, url, token] = process.argv.slice(2);
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

// What runs in the page; console.log is seen outside.
const scripts = {
  websocket: ({ url, token }) => {
    const ws = new WebSocket(url, ['bearer', token]);
    let error = '';
    ws.onopen = () => console.log('open');
    ws.onerror = () => { error = '`onerror`, '; };
    ws.onclose = event => console.log(`shown ${error}\`onclose\` ${event.code}` + (event.reason && ` "${event.reason}"`));
  },
  'socket.io': ({ url, token }) => {
    const at = new URL(url);
    const socket = io(at.origin, { path: at.pathname, transports: ['websocket'], query: { access_token: token }, reconnection: false });
    socket.on('greeting', () => console.log('open'));
    socket.on('connect_error', err => console.log(`shown \`connect_error\` "${err.message}"`));
    socket.on('disconnect', (reason, { context }) => console.log(`shown \`disconnect\` "${reason}", \`details.context\` ${context.code} "${context.reason}"`));
  },
};

async function main() {
  const page = http.createServer((_, response) => response.end('<!doctype html><title>a front end</title>')).listen(0, '127.0.0.1');
  const browser = await chromium.launch({ executablePath, args, headless: true });
  try {
    const tab = await browser.newPage();
    const end = new Promise(resolve => tab.on('console', message => {
      if (!/^(open$|shown )/.test(message.text())) return; // Chromium's own remarks
      console.log(message.text());
      if (message.text() !== 'open') resolve();
    }));
    await tab.goto(`http://127.0.0.1:${page.address().port}/`);
    if (library === 'socket.io') await tab.addScriptTag({ content: fs.readFileSync(socketIO, 'utf8') });
    await tab.evaluate(scripts[library], { url, token });
    await end;
  } finally {
    await browser.close();
    page.close();
  }
}

main().catch(err => {
  console.error(err);
  process.exit(1);
});

// Node's own WebSocket. It shows neither status nor body of a refusal, as in a browser.
'use strict';
const [url, token] = process.argv.slice(2);

const ws = new WebSocket(url, ['bearer', token]);
let opened = false;
ws.onopen = () => { opened = true; console.log('open'); };
ws.onerror = () => opened || console.log('shown `onerror`, no status'); // only newer versions call onclose then
ws.onclose = event => opened && console.log(`shown \`onclose\` ${event.code} "${event.reason}"`);

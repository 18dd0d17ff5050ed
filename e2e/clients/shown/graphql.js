// graphql-ws on Node, with a subscription that never ends.
'use strict';
const { createClient } = require('graphql-ws');
const WebSocket = require('ws');
const [url, token] = process.argv.slice(2);

let error = '';
const client = createClient({
  url: `${url}?access_token=${token}`,
  webSocketImpl: WebSocket,
  retryAttempts: 0,
  on: {
    error: err => { error = `\`error\` "${err.message}", `; },
    closed: event => {
      console.log(`shown ${error}\`closed\` ${event.code}` + (event.reason && ` "${event.reason}"`));
      process.exit();
    },
  },
});
client.subscribe({ query: 'subscription { tick }' }, { next: () => console.log('open'), error: () => {}, complete: () => {} });

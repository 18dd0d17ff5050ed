// Agents that speak a protocol of their own over the WebSocket: node agents.js socket.io|graphql|mqtt. Prints its port.
'use strict';
const http = require('node:http');

const server = http.createServer((_, response) => response.end());

const agents = {
  'socket.io'() {
    const { Server } = require('socket.io');
    new Server(server).on('connection', socket => socket.emit('greeting'));
  },
  graphql() {
    const { buildSchema } = require('graphql');
    const { useServer } = require('graphql-ws/use/ws');
    const { WebSocketServer } = require('ws');
    const schema = buildSchema('type Query { no: Int } type Subscription { tick: Int }');
    const roots = {
      subscription: {
        async *tick() {
          yield { tick: 1 };
          await new Promise(() => {});
        },
      },
    };
    useServer({ schema, roots }, new WebSocketServer({ server }));
  },
  async mqtt() {
    const { Aedes } = require('aedes');
    const { WebSocketServer, createWebSocketStream } = require('ws');
    const broker = await Aedes.createBroker();
    new WebSocketServer({ server }).on('connection', (ws, request) => {
      const stream = createWebSocketStream(ws);
      stream.on('error', () => {}); // it is gone
      broker.handle(stream, request);
    });
  },
};

Promise.resolve(agents[process.argv[2]]()).then(() => server.listen(0, '127.0.0.1', () => console.log(server.address().port)));

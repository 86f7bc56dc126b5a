/** Passes requests for a websocket through the application like all others, so that rights and errors are the same. */
import { type IncomingMessage, type RequestListener, ServerResponse } from 'node:http';
import type { Server } from 'node:https';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import type { Response } from 'express';
import { type WebSocket, WebSocketServer } from 'ws';
import { LxstowError } from '../../contract/errors.ts';
import { errorEnvelope } from '../http/respond.ts';

/** Clients send pings and nothing else. */
const maxPayload = 4096;

/** Lets the application answer requests for a websocket; a route then calls `upgradeOf`. */
export function takeUpgrades(server: Server, app: RequestListener): void {
  const websockets = new WebSocketServer({ noServer: true, maxPayload, perMessageDeflate: false });
  websockets.on('wsClientError', (error, socket, request) => refuse(request, socket, error.message));
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => socket.destroy());
    // Nobody else reads it until it is upgraded, and unread bytes would hide that the client has gone.
    socket.resume();
    const upgraded = String(request.headers.upgrade).toLowerCase() === 'websocket';
    if (request.method !== 'GET' || !upgraded)
      return refuse(request, socket, 'only a GET request can be upgraded, and only to a websocket');
    const response = answerOn(request, socket);
    const accept = () =>
      new Promise<WebSocket>((resolve) => {
        response.detachSocket(socket as TLSSocket);
        websockets.handleUpgrade(request, socket, head, resolve);
      });
    app(request, Object.assign(response, { locals: { accept } }));
  });
}

/** Returns what upgrades the request to a websocket. Throws bad-request if it does not ask for one. The library answers invalid handshakes. */
export function upgradeOf(response: Response): () => Promise<WebSocket> {
  const { accept } = response.locals as { accept?: () => Promise<WebSocket> };
  if (!accept) throw new LxstowError('bad-request', 'this path is a websocket: send an upgrade request');
  return accept;
}

function answerOn(
  request: IncomingMessage,
  socket: Duplex,
): ServerResponse<IncomingMessage> & { req: IncomingMessage } {
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(socket as TLSSocket);
  // Node.js has taken its timeouts off the socket: `end` would leave it open for as long as the client keeps its side open.
  response.on('finish', () => (socket as TLSSocket).destroySoon());
  return response;
}

function refuse(request: IncomingMessage, socket: Duplex, error: string): void {
  const body = JSON.stringify(errorEnvelope(400, error));
  const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
  answerOn(request, socket).writeHead(400, headers).end(body);
}

/** A wire that a test holds in its hands: between lxstow and S3, NATS or LXD, it is cut, stalls, drips, and heals again. */
import { once } from 'node:events';
import { connect, createServer, type NetConnectOpts, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

interface ProxyOptions {
  /** To whom: a port on the loopback address, or the path of a socket. */
  target: NetConnectOpts;
  /** Where it listens, when its target is a socket. */
  socket?: string;
}

export interface Wire extends AsyncDisposable {
  readonly port: number;
  /** Bytes that went through since it was made: `up` to the server, `down` from it. */
  readonly bytes: { up: number; down: number };
  /** Ends every connection at once (TCP: reset). New ones are let through. */
  cut(): void;
  /** Says to each client that the server has ended, and still takes what the client sends, for nobody. New ones are let through. */
  halfClose(): void;
  /** Nothing moves any more, and nobody is told; new connections are taken, and stay silent. `down`: the server hears, but is not heard. */
  stall(what?: 'all' | 'down'): void;
  /** So many bytes a second go through, each way, over all connections. */
  drip(bytesPerSecond: number): void;
  /** Nobody listens any more; what is open is cut. */
  refuse(): Promise<void>;
  /** All is well again: what was stalled goes on, and what was planned does not come. */
  heal(): Promise<void>;
  /** Calls `then` once, when so many more bytes have gone up or down. */
  after(way: 'up' | 'down', bytes: number, then: () => void): void;
}

type Way = 'up' | 'down';

const dripPieceBytes = 16 * 1024;
/** How much of the time that late timers cost is made up for, so that a busy machine does not make the wire slower. */
const dripCatchUpMs = 250;

export async function startProxy({ target, socket: path }: ProxyOptions): Promise<Wire> {
  const open = new Set<{ client: Socket; upstream: Socket }>();
  const bytes = { up: 0, down: 0 };
  let stalled: Set<Way> = new Set();
  let healed = Promise.withResolvers<void>();
  let bytesPerSecond = Number.POSITIVE_INFINITY;
  const clock = { up: 0, down: 0 };
  let planned: { way: Way; at: number; then: () => void }[] = [];

  /** Resolves when so many bytes may pass. */
  async function pass(way: Way, count: number): Promise<void> {
    while (stalled.has(way)) await healed.promise;
    if (bytesPerSecond < Number.POSITIVE_INFINITY) {
      const now = performance.now();
      clock[way] = Math.max(now - dripCatchUpMs, clock[way]) + (count * 1000) / bytesPerSecond;
      if (clock[way] > now) await delay(clock[way] - now);
    }
  }

  function count(way: Way, moved: number): void {
    bytes[way] += moved;
    const due = planned.filter((plan) => plan.way === way && bytes[way] >= plan.at);
    planned = planned.filter((plan) => !due.includes(plan));
    for (const { then } of due) then();
  }

  async function pump(way: Way, from: Socket, to: Socket): Promise<void> {
    for await (const chunk of from as AsyncIterable<Buffer>) {
      const step = bytesPerSecond < Number.POSITIVE_INFINITY ? dripPieceBytes : chunk.length;
      for (let at = 0; at < chunk.length; at += step) {
        const piece = chunk.subarray(at, at + step);
        await pass(way, piece.length);
        count(way, piece.length);
        if (to.writableEnded || to.destroyed) continue; // half closed: for nobody
        if (!to.write(piece)) await drained(to);
      }
    }
    await pass(way, 0);
    to.end();
  }

  const server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = connect({ ...target, allowHalfOpen: true });
    const pair = { client, upstream };
    open.add(pair);
    const end = () => {
      open.delete(pair);
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) socket.on('error', end);
    void Promise.all([pump('up', client, upstream), pump('down', upstream, client)]).then(end, end);
  });

  function cut(): void {
    for (const { client, upstream } of open) {
      // Only TCP knows a reset.
      if (path === undefined) client.resetAndDestroy();
      else client.destroy();
      upstream.destroy();
    }
    open.clear();
  }

  async function listen(where: { port: number; host: string } | { path: string }): Promise<void> {
    server.listen(where);
    await once(server, 'listening');
  }

  async function close(): Promise<void> {
    if (!server.listening) return;
    const closed = once(server, 'close');
    server.close();
    cut();
    await closed;
  }

  await listen(path === undefined ? { port: 0, host: '127.0.0.1' } : { path });
  const address = server.address();
  const port = address !== null && typeof address === 'object' ? address.port : 0;
  return {
    port,
    bytes,
    cut,
    halfClose() {
      for (const { client } of open) client.end();
    },
    stall(what = 'all') {
      stalled = new Set(what === 'all' ? ['up', 'down'] : ['down']);
    },
    drip(rate) {
      bytesPerSecond = rate;
    },
    refuse: close,
    async heal() {
      planned = [];
      stalled = new Set();
      bytesPerSecond = Number.POSITIVE_INFINITY;
      healed.resolve();
      healed = Promise.withResolvers<void>();
      if (!server.listening) await listen(path === undefined ? { port, host: '127.0.0.1' } : { path });
    },
    after(way, more, then) {
      planned.push({ way, at: bytes[way] + more, then });
    },
    async [Symbol.asyncDispose]() {
      stalled = new Set();
      healed.resolve();
      await close();
    },
  };
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done);
      socket.off('close', done);
      resolve();
    };
    socket.on('drain', done);
    socket.on('close', done);
  });
}

// Clients of a gateway under load, in a process of their own: told what to do by its parent, which gets the figures.
import { setTimeout as delay } from 'node:timers/promises';
import WebSocket from 'ws';
import { openClient } from './client.ts';
import { quantile } from './measure.ts';

interface Place {
  url: string;
  cert: string;
  key: string;
}

export type ClientsTask =
  /** A client for each operation. */
  (Place & { kind: 'pollers'; ids: string[]; everyMs: number }) | (Place & { kind: 'listeners'; count: number });

/** Milliseconds. */
export interface ClientsReport {
  /** Answers, or events. */
  count: number;
  p50: number;
  p99: number;
  most: number;
}

/** So long after the last change an event may still come. */
const lateMs = 10_000;

const [task] = await told<ClientsTask>();
report(task.kind === 'pollers' ? await poll(task) : await listen(task));

async function poll({ url, cert, key, ids, everyMs }: Extract<ClientsTask, { kind: 'pollers' }>): Promise<number[]> {
  const clients = ids.map((id) => ({
    path: `/1.0/operations/${id}`,
    ...openClient({ url, client: { cert, key } }, 1),
  }));
  const get = async ({ request, path }: (typeof clients)[number]) => {
    const { status, text, ms } = await request('GET', path);
    if (status !== 200) throw new Error(text);
    return ms;
  };
  // Each connects; a few at a time, so that none waits for its turn too long.
  for (let from = 0; from < clients.length; from += 20) await Promise.all(clients.slice(from, from + 20).map(get));
  process.send?.('ready');
  await told();
  const times: number[] = [];
  const ending = told();
  let ended = false;
  void ending.then(() => {
    ended = true;
  });
  await Promise.all(
    clients.map(async (client, index) => {
      const begun = performance.now() + (index * everyMs) / clients.length;
      for (let turn = 0; !ended; turn++) {
        await delay(Math.max(0, begun + turn * everyMs - performance.now()));
        if (!ended) times.push(await get(client));
      }
    }),
  );
  for (const client of clients) client[Symbol.dispose]();
  return times;
}

async function listen({ url, cert, key, count }: Extract<ClientsTask, { kind: 'listeners' }>): Promise<number[]> {
  const late: number[] = [];
  const sockets = Array.from(
    { length: count },
    () => new WebSocket(`${url}/1.0/events?type=operation`, { cert, key, rejectUnauthorized: false }),
  );
  const gone = Promise.withResolvers<never>();
  for (const socket of sockets) {
    // The operation says when it was written, by the same clock.
    socket.on('message', (data) => late.push(Date.now() - Date.parse(JSON.parse(data.toString()).timestamp)));
    socket.on('error', gone.reject);
  }
  await Promise.race([
    gone.promise,
    Promise.all(sockets.map((socket) => new Promise((open) => socket.once('open', open)))),
  ]);
  process.send?.('ready');
  const [{ expected }] = await told<{ expected: number }>();
  for (const until = performance.now() + lateMs; late.length < expected && performance.now() < until; ) await delay(20);
  return late;
}

async function told<T>(): Promise<[T]> {
  return new Promise((resolve) => process.once('message', (message) => resolve([message as T])));
}

function report(times: number[]): void {
  const figures: ClientsReport = {
    count: times.length,
    p50: quantile(times, 0.5),
    p99: quantile(times, 0.99),
    most: Math.max(0, ...[quantile(times, 1)]),
  };
  process.send?.(figures, () => process.exit());
}

/** What input that is made to be slow costs a gateway, beside harmless input of the same size: how late its event loop is, and its memory. */
import https from 'node:https';
import { gzipSync } from 'node:zlib';
import { openLab } from '../lab/lab.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { memoryMiB } from '../lab/processes.ts';
import type { Log } from '../lab/run.ts';
import { tarOf } from '../lab/tar.ts';
import { unitSettings } from '../lab/unitSettings.ts';
import { median } from './measure.ts';
import type { Line, Table } from './report.ts';

const mib = 1024 * 1024;
const times = 12;
/** Of an upload, which takes a thread seconds. */
const uploads = 4;
const atOnce = 4;
/** Beyond what harmless input costs. */
const mostLateMs = 50;
const mostMoreMiB = 64;

interface Input {
  method: string;
  path: string;
  body?: Buffer;
  type?: string;
  /** Without a certificate. */
  stranger?: boolean;
}

interface Pair {
  name: string;
  harmless: Input;
  hostile: Input;
}

interface Found {
  lateMs: number;
  memoryMiB: number;
}

export async function measureHostile(rounds: number, log: Log): Promise<Table> {
  await using lab = await openLab({ name: 'hostile', log, lxd: false });
  if (!lab.nats || !lab.s3) throw new Error('there is no NATS or no S3 server');
  const loopDelay = new URL('../fault/loopDelay.ts', import.meta.url);
  await using stow = await startLxstow({
    ...{ name: 'hostile', log, natsUrl: lab.nats.url, s3: lab.s3, socket: '/none', workers: 0 },
    config: { gateway: { refusalsPerMinute: 1_000_000 } },
    environment: (part) =>
      part === 'gateway' ? { NODE_OPTIONS: `${unitSettings(part).NODE_OPTIONS} --import=${loopDelay}` } : {},
  });
  const lines: Line[] = [];
  const bars: Table['bars'] = [];
  for (const { name, harmless, hostile } of pairs()) {
    const found: Record<'harmless' | 'hostile', Found[]> = { harmless: [], hostile: [] };
    for (let round = 0; round <= rounds; round++) {
      for (const kind of ['harmless', 'hostile'] as const) {
        const one = await sent(stow, kind === 'hostile' ? hostile : harmless);
        if (round > 0) found[kind].push(one);
      }
    }
    const middle = (kind: 'harmless' | 'hostile', of: (one: Found) => number) => median(found[kind].map(of));
    const late = (kind: 'harmless' | 'hostile') => middle(kind, ({ lateMs }) => lateMs);
    const memory = (kind: 'harmless' | 'hostile') => middle(kind, (one) => one.memoryMiB);
    for (const kind of ['harmless', 'hostile'] as const)
      lines.push({
        name: `${name}, ${kind}: latest turn of the loop`,
        wallS: late(kind) / 1000,
        peakMiB: memory(kind),
      });
    const [more, larger] = [late('hostile') - late('harmless'), memory('hostile') - memory('harmless')];
    bars.push(
      { text: `${name}: ≤ ${mostLateMs} ms later`, value: more, holds: more <= mostLateMs },
      { text: `${name}: ≤ ${mostMoreMiB} MiB more`, value: larger, holds: larger <= mostMoreMiB },
    );
    log(`${name}: ${Math.round(more)} ms later, ${Math.round(larger)} MiB more`);
  }
  return { title: `Hostile input, ${times} times, ${atOnce} at once`, bytes: 0, rounds, lines, bars };
}

function pairs(): Pair[] {
  const body = (text: string): Buffer => Buffer.from(text);
  const trust = { method: 'POST', path: '/1.0/certificates' };
  const list = { method: 'GET', path: '/1.0/operations?recursion=1&filter=' };
  const upload = { method: 'POST', path: '/1.0/instances', type: 'application/octet-stream' };
  const harmlessJson = (bytes: number) => body(JSON.stringify({ type: 'client', x: 'x'.repeat(bytes - 40) }));
  const numbers = (bytes: number) => body(`{"type":"client","projects":[${'1,'.repeat(bytes / 2 - 20)}1]}`);
  const keys = `name: c1\n${Array.from({ length: 50_000 }, (_, i) => `k${i}: v`).join('\n')}`;
  return [
    {
      name: "a stranger's 64 KiB",
      harmless: { ...trust, stranger: true, body: harmlessJson(60_000) },
      hostile: { ...trust, stranger: true, body: numbers(60_000) },
    },
    {
      name: "a stranger's 1 MiB",
      harmless: { ...trust, stranger: true, body: harmlessJson(mib) },
      hostile: { ...trust, stranger: true, body: numbers(mib) },
    },
    {
      name: "a client's 1 MiB of numbers",
      harmless: { ...trust, body: harmlessJson(mib - 100) },
      hostile: { ...trust, body: numbers(mib - 100) },
    },
    {
      name: "a client's 1 MiB of brackets",
      harmless: { ...trust, body: harmlessJson(mib - 100) },
      hostile: { ...trust, body: body('['.repeat(mib / 2 - 50) + ']'.repeat(mib / 2 - 50)) },
    },
    {
      name: 'a filter of 1 kB',
      harmless: { ...list, path: `${list.path}${encodeURIComponent(`description eq ${'x'.repeat(900)}`)}` },
      hostile: { ...list, path: `${list.path}${encodeURIComponent(`description eq ${'(?:.?){1000}'.repeat(80)}`)}` },
    },
    {
      name: 'an index.yaml of 0.5 MiB',
      harmless: { ...upload, body: gzipSync(tarOf('backup/index.yaml', `#${'x'.repeat(mib / 2)}`)) },
      hostile: { ...upload, body: gzipSync(tarOf('backup/index.yaml', keys)) },
    },
  ];
}

/** The input, often; how late the loop was meanwhile, and what the gateway holds then. */
async function sent({ url, client, gateway, logOf }: Lxstow, input: Input): Promise<Found> {
  const { method, path, body, type = 'application/json', stranger = false } = input;
  const identity = stranger ? {} : { cert: client.cert, key: client.key };
  const agent = new https.Agent({ keepAlive: true, maxSockets: atOnce, rejectUnauthorized: false, ...identity });
  /** Resolves when it is answered, or cut, as one that is refused early may be. */
  const one = () =>
    new Promise<void>((resolve) => {
      const headers = { ...(body && { 'content-type': type, 'content-length': String(body.length) }) };
      const request = https.request(`${url}${path}`, { method, agent, headers }, (response) => {
        response.on('error', () => resolve());
        response.resume();
      });
      request.on('error', () => resolve());
      request.on('close', () => resolve());
      request.end(body);
    });
  await reported(gateway.pid, logOf);
  await Promise.all(Array.from({ length: type === 'application/json' ? times : uploads }, one));
  agent.destroy();
  const lateMs = await reported(gateway.pid, logOf);
  return { lateMs, memoryMiB: await memoryMiB(gateway.pid, 'VmRSS') };
}

/** The latest turn of the loop since the last report, in ms. */
async function reported(pid: number, logOf: Lxstow['logOf']): Promise<number> {
  const reports = async () => [...(await logOf('gateway')).matchAll(/"message":"event loop".*"max":([\d.]+)\}/g)];
  const before = (await reports()).length;
  process.kill(pid, 'SIGUSR2');
  for (;;) {
    const now = await reports();
    if (now.length > before) return Number(now.at(-1)?.[1]);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

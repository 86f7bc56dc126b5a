/** LXD's backups of instances: written, listed, sent, removed. */
import { statSync } from 'node:fs';
import { type FileHandle, link, mkdir, open, rm, truncate } from 'node:fs/promises';
import type { OutgoingHttpHeaders } from 'node:http';
import { dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { pack } from './archive.ts';
import { about, instanceView, poolView } from './catalog.ts';
import type { Fault, Faults, JobFaults } from './faults.ts';
import { accepted, type Dialect, type Operation, type Operations } from './operations.ts';
import { type Call, Refusal, type Routes, sync } from './server.ts';
import type { Backup, Instance, State } from './state.ts';

const compressors = ['none', 'bzip2', 'gzip', 'lzma', 'pigz', 'pzstd', 'squashfs', 'xz', 'zstd'];
const progressEveryMs = 1_000;
const zeroTime = '0001-01-01T00:00:00Z';

export function backupRoutes(
  state: State,
  operations: Operations,
  faults: Faults,
  dialect: Dialect,
  stopped: AbortSignal,
): Routes {
  const instanceOf = ({ param, project }: Call) => state.instance(param('name'), project);
  const backupOf = (call: Call) => {
    const instance = instanceOf(call);
    const backup = instance.backups.get(call.param('backup'));
    if (!backup) throw new Refusal(404, 'Load backup from database: Instance backup not found');
    return { instance, backup };
  };
  return {
    '/1.0/instances/{name}/backups': {
      GET(call) {
        const { name, backups } = instanceOf(call);
        if (call.query.get('recursion') === '1') return sync([...backups.values()]);
        return sync([...backups.keys()].map((backup) => `/1.0/instances/${name}/backups/${backup}`));
      },
      async POST(call) {
        const instance = instanceOf(call);
        const body = await call.body(500);
        const { backup, compression } = parseBody(body, state, instance);
        const version = body.version ?? dialect.metadataVersion;
        const format = { compression, version, backupYaml: dialect.backupYaml };
        const { resources, ...rest } = about('Backing up instance', instance, 'containers', 'instances');
        const task = (operation: Operation) =>
          write(
            state,
            instance,
            backup,
            { ...format, leastMs: faults.backupMs, packed: faults.packed },
            operation,
            faults.takeJob('backup'),
            stopped,
          );
        return accepted(
          operations.start({ ...rest, resources: { backups: [`/1.0/backups/${backup.name}`], ...resources } }, task),
        );
      },
    },
    '/1.0/instances/{name}/backups/{backup}': {
      GET: (call) => sync(backupOf(call).backup),
      DELETE(call) {
        const { instance, backup } = backupOf(call);
        return accepted(
          operations.start(about('Removing instance backup', instance, 'container'), async () => {
            instance.backups.delete(backup.name);
            await rm(state.backupFile(instance, backup.name), { force: true });
          }),
        );
      },
    },
    '/1.0/instances/{name}/backups/{backup}/export': {
      async GET(call) {
        const { instance, backup } = backupOf(call);
        await using file = await open(state.backupFile(instance, backup.name)).catch(() => {
          // Its record comes first.
          throw new Refusal(404, 'not found');
        });
        await sendFile(call, file, faults);
        return undefined;
      },
    },
  };
}

function parseBody(body: Record<string, unknown>, state: State, instance: Instance) {
  const { name = '', expires_at, instance_only, container_only, optimized_storage, compression_algorithm } = body;
  if (typeof name !== 'string') throw new Refusal(400, 'json: cannot unmarshal name into a string');
  if (name.includes('/')) throw new Refusal(400, 'Backup names may not contain slashes');
  const compression = String(compression_algorithm || 'gzip');
  if (!compressors.includes(compression.split(' ')[0] ?? ''))
    throw new Refusal(400, `Invalid compression algorithm "${compression}"`);
  const instanceOnly = instance_only === true || container_only === true;
  const backup: Backup = {
    name: name || freeName(instance),
    created_at: toSecond(new Date()),
    expires_at: typeof expires_at === 'string' ? toSecond(new Date(expires_at)) : zeroTime,
    instance_only: instanceOnly,
    container_only: instanceOnly,
    optimized_storage: optimized_storage === true && state.driver(instance.pool) === 'btrfs',
  };
  return { backup, compression };
}

function freeName({ backups }: Instance): string {
  for (let count = 0; ; count++) if (!backups.has(`backup${count}`)) return `backup${count}`;
}

function toSecond(date: Date): string {
  return `${date.toISOString().slice(0, 19)}Z`;
}

interface Format {
  compression: string;
  /** Of the index. */
  version: unknown;
  backupYaml: boolean;
  /** It takes at least so long. */
  leastMs: number;
  packed: string | undefined;
}

/** It is listed, and can be exported, while it is being written. */
async function write(
  state: State,
  instance: Instance,
  backup: Backup,
  { compression, version, backupYaml, leastMs, packed }: Format,
  operation: Operation,
  fault: Fault<JobFaults['backup']> | undefined,
  signal: AbortSignal,
): Promise<void> {
  const { backups, name } = instance;
  if (backups.has(backup.name)) throw new Error(`Create backup: Backup "${name}/${backup.name}" already exists`);
  backups.set(backup.name, backup);
  const file = state.backupFile(instance, backup.name);
  const begun = performance.now();
  const progress = setInterval(() => {
    const written = statSync(file, { throwIfNoEntry: false });
    if (written) operation.metadata = { create_backup_progress: progressText(written.size, performance.now() - begun) };
  }, progressEveryMs);
  try {
    await mkdir(dirname(file), { recursive: true });
    const index = (snapshots: string[]) => indexOf(state, instance, backup.optimized_storage, version, snapshots);
    const options = { optimized: backup.optimized_storage, instanceOnly: backup.instance_only };
    if (packed !== undefined) await link(packed, file);
    else await pack(state, instance, index, file, { ...options, compression, backupYaml, signal });
    await delay(Math.max(0, leastMs - (performance.now() - begun)), undefined, { signal });
    clearInterval(progress);
    if (fault) await apply(fault, file, operation, signal);
  } catch (error) {
    if (signal.aborted) throw error; // a daemon that is killed leaves it as it is: listed, and cut
    backups.delete(backup.name);
    await rm(file, { force: true });
    throw new Error('Create backup: Backup create', { cause: error });
  } finally {
    clearInterval(progress);
  }
}

async function apply(
  fault: Fault<JobFaults['backup']>,
  file: string,
  operation: Operation,
  signal: AbortSignal,
): Promise<void> {
  const { cutAt, progress, hold, error } = fault.script;
  if (cutAt !== undefined) await truncate(file, cutAt);
  if (progress) operation.metadata = { create_backup_progress: progress };
  fault.reach();
  if (hold) await fault.hold(signal);
  if (error) throw new Error(error);
}

/** What `backup/index.yaml` says. */
function indexOf(state: State, instance: Instance, optimized: boolean, version: unknown, snapshots: string[]): object {
  const view = instanceView(state, instance);
  const { architecture, config, devices, profiles, expanded_config, expanded_devices, created_at } = view;
  const snapshot = { architecture, config, created_at, devices, expanded_config, expanded_devices, profiles };
  return {
    name: instance.name,
    backend: state.driver(instance.pool),
    pool: instance.pool,
    ...(snapshots.length > 0 ? { snapshots } : {}),
    optimized,
    optimized_header: optimized,
    type: 'container',
    config: {
      ...(version === 1 ? { container: view } : { version, instance: view }),
      ...(snapshots.length > 0 ? { snapshots: snapshots.map((name) => ({ ...snapshot, name, size: -1 })) } : {}),
      ...(version === 1 ? { pool: poolView(state, instance.pool) } : { pools: [poolView(state, instance.pool)] }),
      profiles: [...state.profiles(instance.project).values()].map((profile) => ({ ...profile, used_by: [] })),
    },
  };
}

/** LXD counts in decimal units: "71.60MB (35.65MB/s)". */
function progressText(bytes: number, elapsedMs: number): string {
  return `${size(bytes)} (${size((bytes * 1_000) / elapsedMs)}/s)`;
}

function size(bytes: number): string {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return power === 0 ? `${Math.round(bytes)}B` : `${(bytes / 1_000 ** power).toFixed(2)}${' kMGT'[power]}B`;
}

/** The file, or the range of it that was asked for. */
async function sendFile({ request, response, signal }: Call, file: FileHandle, faults: Faults): Promise<void> {
  const stats = await file.stat();
  const asked = rangeOf(request.headers.range, stats.size) ?? { start: 0, end: stats.size - 1 };
  const fault = faults.takeJob('export', ({ cutAt, dropAt, holdAt }) => {
    const at = cutAt ?? dropAt ?? holdAt ?? 0;
    return asked.start <= at && at <= asked.end;
  });
  const { cutAt = stats.size, dropAt, holdAt } = fault?.script ?? {};
  const total = Math.min(stats.size, cutAt);
  const headers: OutgoingHttpHeaders = {
    'accept-ranges': 'bytes',
    'content-disposition': 'inline;filename=',
    'content-type': 'application/octet-stream',
    'last-modified': stats.mtime.toUTCString(),
  };
  const range = rangeOf(request.headers.range, total);
  if (range && range.start > range.end) {
    response.writeHead(416, { ...headers, 'content-range': `bytes */${total}` });
    response.end('invalid range: failed to overlap\n');
    return;
  }
  const { start, end } = range ?? { start: 0, end: total - 1 };
  if (range) headers['content-range'] = `bytes ${start}-${end}/${total}`;
  response.writeHead(range ? 206 : 200, { ...headers, 'content-length': end - start + 1 });
  if (total < stats.size) fault?.reach();
  if (total === 0) {
    response.end();
    return;
  }
  const at = dropAt ?? holdAt;
  const source = file.createReadStream({ start, end, highWaterMark: 1024 * 1024, autoClose: false });
  await pipeline(
    source,
    (chunks) =>
      interrupted(chunks, at === undefined ? undefined : at - start, async () => {
        fault?.reach();
        if (dropAt !== undefined) response.destroy();
        else await fault?.hold(signal);
      }),
    response,
  );
}

/** The bytes from a `Range` header; undefined when it asks for none that we know, as RFC 9110 has it. */
function rangeOf(header: string | undefined, size: number): { start: number; end: number } | undefined {
  const [, from = '', to = ''] = /^bytes=(\d*)-(\d*)$/.exec(header ?? '') ?? [];
  if (from) return { start: Number(from), end: Math.min(size - 1, to ? Number(to) : size) };
  return to ? { start: Math.max(0, size - Number(to)), end: size - 1 } : undefined;
}

/** The chunks; after so many bytes, `what` comes first before they go on. */
export async function* interrupted(
  chunks: AsyncIterable<Buffer>,
  after: number | undefined,
  what: () => Promise<void>,
): AsyncGenerator<Buffer> {
  let left = after ?? Number.POSITIVE_INFINITY;
  for await (const chunk of chunks) {
    if (left < chunk.length) {
      yield chunk.subarray(0, left);
      await what();
      yield chunk.subarray(left);
      left = Number.POSITIVE_INFINITY;
    } else {
      yield chunk;
      left -= chunk.length;
    }
  }
}

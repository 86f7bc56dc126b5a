/** `lxstow export`: downloads an archive to a file or to standard output, and resumes where a download stopped. */
import { type FileHandle, open, rename, stat } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { connectionError, type Gateway, Unreachable } from '../client/gatewayClient.ts';
import { backupName, Gateways, type NamedInstance, type Scope, suggesting } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { size } from '../terminal/output.ts';
import { openProgress, type Progress } from '../terminal/progress.ts';

interface ExportOptions extends Scope {
  force?: boolean;
  quiet?: boolean;
}

/** The archive as the gateway has it. */
interface Archive {
  path: string[];
  etag: string;
  bytes: number;
}

interface Target {
  /** Bytes that were downloaded earlier. */
  readonly offset: number;
  write(bytes: Buffer, at: number): Promise<void>;
  finish(bytes: number): Promise<void>;
  close(): Promise<void>;
}

/** Give up after this many attempts in a row without a byte. */
const mostAttempts = 5;
const againAfterMs = 1000;
const idleMs = 60_000;

export async function exportCommand(
  text: string,
  wanted: string,
  file: string | undefined,
  options: ExportOptions,
): Promise<Exit> {
  using gateways = new Gateways();
  const where = await gateways.oneInstance(text, options);
  const backup = await suggesting(where, undefined, () => backupName(where, wanted));
  const archive = await find(where, backup);
  const name = file ?? `${where.instance}-${backup}`;
  const target = name === '-' ? toStdout() : await toFile(name, archive, options.force);
  const stop = new AbortController();
  const interrupted = () =>
    stop.abort(new CliError(exits.interrupted, 'stopped', { hint: name === '-' ? undefined : resumable }));
  process.once('SIGINT', interrupted);
  try {
    using progress = openProgress(options.quiet);
    await transfer(where, archive, target, `${where.instance}/${backup}`, progress, stop.signal);
    await target.finish(archive.bytes);
  } finally {
    process.off('SIGINT', interrupted);
    await target.close();
  }
  if (name !== '-' && !options.quiet) process.stderr.write(`${name}: ${size(archive.bytes)}\n`);
  return exits.ok;
}

const resumable = 'run the same command again to resume the download';

async function find(where: NamedInstance, backup: string): Promise<Archive> {
  const { gateway, instance, scope } = where;
  const path = ['instances', instance, 'backups', backup];
  // The answer to HEAD has no error text, so ask for the backup first.
  const { stage } = await suggesting(where, backup, () => gateway.ask('GET', path, { query: scope }));
  if (stage !== undefined) throw new CliError(exits.conflict, `${instance}/${backup} is still being made: ${stage}`);
  const { headers } = (await gateway.open('HEAD', [...path, 'export'], { query: scope })).resume();
  const bytes = Number(headers['content-length']);
  if (!headers.etag || !Number.isSafeInteger(bytes))
    throw new CliError(exits.protocol, `${gateway.remote.name} does not say how long ${instance}/${backup} is`);
  return { path: [...path, 'export'], etag: headers.etag, bytes };
}

async function transfer(
  { gateway, scope }: NamedInstance,
  { path, etag, bytes }: Archive,
  target: Target,
  label: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  let at = target.offset;
  const begun = performance.now();
  let shown = Number.NEGATIVE_INFINITY;
  for (let attempts = 0; at < bytes; ) {
    const from = at;
    try {
      const headers = { range: `bytes=${at}-`, 'if-match': etag };
      const response = await gateway.open('GET', path, { query: scope, headers, signal });
      checkRange(response, at, bytes);
      for await (const chunk of received(response, gateway, signal)) {
        if (at + chunk.length > bytes)
          throw new CliError(exits.protocol, `${label}: the gateway sent more than ${bytes} bytes`);
        await target.write(chunk, at);
        at += chunk.length;
        const now = performance.now();
        if (now - shown < 500) continue;
        shown = now;
        const rate = ((at - target.offset) / (now - begun)) * 1000;
        progress.show([{ label, state: 'exporting', done: at, total: bytes, rate }]);
      }
      if (at < bytes) throw new Unreachable(exits.io, `the download of ${label} stopped after ${at} of ${bytes} bytes`);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      attempts = at > from ? 1 : attempts + 1;
      if (attempts >= mostAttempts)
        throw new CliError(exits.io, error.message, {
          hint: resumable,
          cause: error,
        });
      progress.note(`${error.message}; resuming`);
      await delay(againAfterMs, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }
}

function checkRange({ statusCode, headers }: IncomingMessage, at: number, bytes: number): void {
  if (statusCode === 206 && headers['content-range'] === `bytes ${at}-${bytes - 1}/${bytes}`) return;
  if (statusCode === 200 && at === 0 && Number(headers['content-length']) === bytes) return;
  throw new CliError(
    exits.protocol,
    `asked for bytes ${at} to ${bytes - 1}, got ${statusCode} ${headers['content-range'] ?? ''}`,
  );
}

/** The body of the answer. Throws Unreachable if the connection ends early, or makes no progress. */
async function* received(response: IncomingMessage, { remote }: Gateway, signal: AbortSignal): AsyncGenerator<Buffer> {
  response.setTimeout(idleMs, () => response.destroy(new Error(`no data for ${idleMs / 1000} s`)));
  try {
    yield* response as AsyncIterable<Buffer>;
  } catch (error) {
    signal.throwIfAborted();
    throw connectionError(error as Error, remote);
  }
}

/** A partial download is next to the file; its name holds the archive's ETag, so that only the same archive is resumed. */
async function toFile(name: string, { etag, bytes }: Archive, force = false): Promise<Target> {
  if (!force && (await exists(name)))
    throw new CliError(exits.conflict, `${name} exists already`, { hint: '--force overwrites it' });
  const partial = `${name}.${etag.replaceAll(/[^0-9A-Za-z-]/g, '').slice(0, 40)}.part`;
  const failed = (cause: unknown) => new CliError(exits.io, `${partial}: ${(cause as Error).message}`, { cause });
  let handle: FileHandle;
  let offset: number;
  try {
    handle = await open(partial, (await exists(partial)) ? 'r+' : 'w+');
    offset = (await handle.stat()).size;
    if (offset > bytes) {
      await handle.truncate(0);
      offset = 0;
    }
  } catch (error) {
    throw failed(error);
  }
  return {
    offset,
    async write(chunk, at) {
      try {
        for (let done = 0; done < chunk.length; )
          done += (await handle.write(chunk, done, chunk.length - done, at + done)).bytesWritten;
      } catch (error) {
        throw failed(error);
      }
    },
    async finish(size) {
      try {
        await handle.sync();
        const there = (await handle.stat()).size;
        if (there !== size) throw new Error(`it has ${there} bytes, not ${size}`);
        await rename(partial, name);
      } catch (error) {
        throw failed(error);
      }
    },
    close: () => handle.close(),
  };
}

function toStdout(): Target {
  if (process.stdout.isTTY)
    throw new CliError(exits.usage, 'an archive cannot be written to a terminal', {
      hint: 'name a file, or pipe it: | zstd …',
    });
  return {
    offset: 0,
    write: (chunk) =>
      new Promise((resolve, reject) =>
        process.stdout.write(chunk, (error) =>
          error ? reject(new CliError(exits.io, `standard output: ${error.message}`, { cause: error })) : resolve(),
        ),
      ),
    finish: async () => undefined,
    close: async () => undefined,
  };
}

async function exists(file: string): Promise<boolean> {
  try {
    await stat(file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw new CliError(exits.io, `${file}: ${(error as Error).message}`, { cause: error });
  }
}

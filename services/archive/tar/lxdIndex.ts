/** Reads the description of the instance from index.yaml, the first file of an LXD archive. */
import { once } from 'node:events';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { LxstowError } from '../../contract/errors.ts';
import { rejoined } from './decompress.ts';
import type { IndexAnswer } from './indexThread.ts';
import {
  type Described,
  indexName,
  type LxdIndex,
  largestIndexBytes,
  notLxds,
  type Parsed,
  type YamlTask,
} from './indexYaml.ts';
import { readEntry, roundedUp, tarBlockBytes } from './tar.ts';

/** Limit on separators of YAML (new lines, commas, brackets). LXD's index has one per 20 to 40 bytes. */
export const mostIndexMarks = 100_000;
/** Limit on entries before the index. LXD writes at most a directory before it. */
export const mostEntriesBefore = 16;
/** 1 MiB of LXD's YAML takes 4 s on a thread that has a core to itself. */
const usualDeadlineMs = 60_000;
const resourceLimits = { maxOldGenerationSizeMb: 256 };

export interface ReadOptions {
  deadlineMs?: number;
  /** Schedules the parsing, whose thread takes up to 100 MiB. Default: runs it at once. */
  inTurn?: <T>(run: () => Promise<T>) => Promise<T>;
  /** Refuses YAML that another parser may read differently: lxstow judges the file, and LXD parses it by itself. */
  strict?: boolean;
}

/**
 * Returns the index, and the whole tar again from its first byte. Throws bad-request when there is no index, or parsing it takes longer than
 * `deadlineMs`; too-large when LXD would refuse it for its size.
 */
export async function readIndex(
  tar: AsyncIterable<Buffer>,
  { deadlineMs = usualDeadlineMs, inTurn = (run) => run(), strict = false }: ReadOptions = {},
): Promise<{ index: LxdIndex; tar: AsyncIterable<Buffer> }> {
  const chunks = tar[Symbol.asyncIterator]();
  const read: Buffer[] = [];
  let size = 0;
  let wanted = 1;
  for (;;) {
    while (size < wanted) {
      const next = await chunks.next();
      if (next.done) throw notLxds(`it does not begin with ${indexName}`);
      read.push(next.value);
      size += next.value.length;
    }
    const head = Buffer.concat(read);
    const found = findFile(head, indexName);
    if (typeof found === 'object') {
      const { index } = await inTurn(() => parseOnThread({ text: found, strict }, deadlineMs));
      if (!index) throw notLxds(`its ${indexName} is empty`);
      return { index, tar: rejoined(head, chunks) };
    }
    wanted = found;
  }
}

/** What a `backup.yaml` says of the instance and its snapshots; the same limits and errors as for an index, and always strict. */
export async function readConfigFile(
  text: Buffer,
  { deadlineMs = usualDeadlineMs, inTurn = (run) => run() }: Omit<ReadOptions, 'strict'> = {},
): Promise<Described[]> {
  const { described = [] } = await inTurn(() => parseOnThread({ text, strict: true, part: 'config' }, deadlineMs));
  return described;
}

async function parseOnThread(task: YamlTask, deadlineMs: number): Promise<Parsed> {
  checkSize(task.text);
  const source = new URL(`./indexThread${extname(import.meta.url)}`, import.meta.url);
  const thread = new Worker(source, { resourceLimits, workerData: { ...task, text: new Uint8Array(task.text) } });
  try {
    const [answer] = (await once(thread, 'message', { signal: AbortSignal.timeout(deadlineMs) })) as [IndexAnswer];
    if ('refused' in answer) throw new LxstowError('bad-request', answer.refused);
    return answer;
  } catch (error) {
    if (error instanceof LxstowError) throw error;
    const { name, message } = error as Error;
    const why = name === 'AbortError' ? `took longer than ${deadlineMs} ms to read` : `cannot be read: ${message}`;
    throw notLxds(`its ${indexName} ${why}`, error);
  } finally {
    await thread.terminate();
  }
}

/** Throws for an index that would take too long to parse. */
function checkSize(text: Uint8Array): void {
  let marks = 0;
  for (const byte of text) if (marksOfYaml.has(byte)) marks++;
  if (marks > mostIndexMarks) throw notLxds(`its ${indexName} has more than ${mostIndexMarks} lines and values`);
}

const marksOfYaml = new Set(Buffer.from('\n,[{'));

/** Returns the file's bytes; or, while `head` is too short, the number of bytes of the tar that the next step needs. */
function findFile(head: Buffer, name: string): Buffer | number {
  for (let at = 0, entries = 0; ; entries++) {
    if (entries > mostEntriesBefore) throw notLxds(`it does not begin with ${indexName}`);
    if (at + tarBlockBytes > head.length) return at + tarBlockBytes;
    const entry = readEntry(head.subarray(at, at + tarBlockBytes));
    if (!entry) throw notLxds(`it does not begin with ${indexName}`);
    const start = at + tarBlockBytes;
    at = start + roundedUp(entry.size);
    if (entry.size > largestIndexBytes) {
      if (entry.name !== name) throw notLxds(`it does not begin with ${indexName}`);
      throw new LxstowError(
        'too-large',
        `its ${indexName} has ${entry.size} bytes, and LXD imports 1 MiB at most: delete snapshots, or export with --instance-only`,
      );
    }
    if (entry.name === name) return head.length < at ? at : head.subarray(start, start + entry.size);
  }
}

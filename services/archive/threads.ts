/**
 * What costs CPU runs on threads of its own: sums of parts, compression of blocks. They work on the memory of the pools: nothing is copied to
 * them or back, and nothing is left for the main thread's collector (docs/adr/0026-threads.md).
 */
import { availableParallelism } from 'node:os';
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Compressed } from './blockFormat.ts';

export interface Digests {
  /** Hex. */
  sha256: string;
  /** base64 of the big-endian sum, as S3 writes it. */
  crc32: string;
}

/** A buffer of a pool, or some of it. */
export interface Stretch {
  memory: SharedArrayBuffer;
  offset: number;
  length: number;
}

/** `pack` works on the first `length` bytes of `on`, and writes over them. */
export type Task =
  | { do: 'digest' | 'sha256'; on: Stretch }
  | { do: 'pack'; compression: Compressed; on: Stretch; length: number }
  | { do: 'unpack'; compression: Compressed; on: Stretch; into: Stretch };

/** What a thread is begun with. */
export interface ThreadData {
  gzipLibrary: string;
}

/** What a thread is sent. */
export type Request = Task & { id: number };

/** What it answers: the sums, or how many bytes there are now. */
export type Answer = { id: number } & (
  | { result: Digests | string | number }
  | { error: string; code: string | undefined }
);

/** A thread could not do what it was asked, and lives on. `code` is zlib's, where it is zlib that could not. */
export class TaskError extends Error {
  override readonly name = 'TaskError';
  readonly code: string | undefined;

  constructor(message: string, code: string | undefined) {
    super(message);
    this.code = code;
  }
}

interface Job extends PromiseWithResolvers<unknown> {
  task: Task;
}

interface Thread {
  worker: Worker;
  jobs: Map<number, Job>;
}

const mostThreads = 4;
/** One that a thread is at, and one that it finds when it is done. */
const jobsOfThread = 2;
/** Of a thread's own heap; all that is large lies outside it. */
const resourceLimits = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64 };

/**
 * As many threads as there are cores, four at most, each begun when those that there are have enough to do. What a thread that dies was at fails; another one takes its
 * place. The memory that a call is given must not change, or be given to others, until it settles.
 */
export class Threads implements AsyncDisposable {
  /** So many blocks keep all threads busy. */
  readonly blocksAtOnce: number;
  readonly #most: number;
  readonly #source: URL;
  readonly #data: ThreadData;
  readonly #threads = new Set<Thread>();
  readonly #queue: Job[] = [];
  #lastId = 0;
  #disposed = false;

  /** `gzipLibrary` is ISA-L's, or empty; `source` is what they run. */
  constructor({
    gzipLibrary = '',
    most = Math.min(mostThreads, availableParallelism()),
    source = new URL(`./thread${extname(import.meta.url)}`, import.meta.url),
  }: {
    gzipLibrary?: string;
    most?: number;
    source?: URL;
  } = {}) {
    this.#most = most;
    this.#source = source;
    this.#data = { gzipLibrary };
    this.blocksAtOnce = most * jobsOfThread;
  }

  /** Both sums of a part. */
  async digest(body: Buffer): Promise<Digests> {
    return this.#run({ do: 'digest', on: stretchOf(body) });
  }

  /** SHA-256 alone, in hex. */
  async sha256(body: Buffer): Promise<string> {
    return this.#run({ do: 'sha256', on: stretchOf(body) });
  }

  /** Compresses the first `length` bytes of `room`, where they are; resolves with the size that they then have. */
  async pack(compression: Compressed, room: Buffer, length: number): Promise<number> {
    return this.#run({ do: 'pack', compression, on: stretchOf(room), length });
  }

  /** Decompresses a gzip member or zstd frame; resolves with how far it fills `into`. Rejects when it is none, or does not fit. */
  async unpack(compression: Compressed, frame: Buffer, into: Buffer): Promise<number> {
    return this.#run({ do: 'unpack', compression, on: stretchOf(frame), into: stretchOf(into) });
  }

  #run<T>(task: Task): Promise<T> {
    if (this.#disposed) return Promise.reject(new Error('the threads have ended'));
    const job: Job = { task, ...Promise.withResolvers<unknown>() };
    this.#queue.push(job);
    this.#assign();
    return job.promise as Promise<T>;
  }

  #assign(): void {
    while (this.#queue.length > 0) {
      const thread = this.#idlest();
      const job = thread && this.#queue.shift();
      if (!job) return;
      const id = ++this.#lastId;
      // One that has nothing to do does not hold the process.
      if (thread.jobs.size === 0) thread.worker.ref();
      thread.jobs.set(id, job);
      thread.worker.postMessage({ ...job.task, id } satisfies Request);
    }
  }

  /** The thread that is to have the next job, a new one only where all have enough; undefined when there may be no more. */
  #idlest(): Thread | undefined {
    let found: Thread | undefined;
    for (const thread of this.#threads) if (!found || thread.jobs.size < found.jobs.size) found = thread;
    if (found && found.jobs.size < jobsOfThread) return found;
    return this.#threads.size < this.#most ? this.#begin() : undefined;
  }

  #begin(): Thread {
    const thread: Thread = {
      worker: new Worker(this.#source, { resourceLimits, workerData: this.#data }),
      jobs: new Map(),
    };
    const { worker, jobs } = thread;
    worker.on('message', (answer: Answer) => {
      const job = jobs.get(answer.id);
      jobs.delete(answer.id);
      if (jobs.size === 0) worker.unref();
      if ('error' in answer) job?.reject(new TaskError(answer.error, answer.code));
      else job?.resolve(answer.result);
      this.#assign();
    });
    const end = (error: Error) => {
      this.#threads.delete(thread);
      for (const job of jobs.values()) job.reject(error);
      jobs.clear();
      if (!this.#disposed) this.#assign();
    };
    worker.on('error', (error) => end(new Error(`a thread has died: ${error.message}`, { cause: error })));
    worker.on('exit', (code) => end(new Error(`a thread has ended with ${code}`)));
    this.#threads.add(thread);
    return thread;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    for (const job of this.#queue.splice(0)) job.reject(new Error('the threads have ended'));
    await Promise.all([...this.#threads].map(({ worker }) => worker.terminate()));
  }
}

function stretchOf(bytes: Buffer): Stretch {
  if (!(bytes.buffer instanceof SharedArrayBuffer)) throw new TypeError('threads see only the memory of pools');
  return { memory: bytes.buffer, offset: bytes.byteOffset, length: bytes.length };
}

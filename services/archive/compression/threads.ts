/**
 * Worker threads for CPU-bound work: checksums of parts, compression of blocks. They work on the pools' shared memory: nothing is copied to
 * them or back, and the main thread's garbage collector gets no work from them (docs/adr/0026-threads.md).
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

/** A range of a pool's buffer. */
export interface Stretch {
  memory: SharedArrayBuffer;
  offset: number;
  length: number;
}

/** `pack` compresses the first `length` bytes of `on` in place. */
export type Task =
  | { do: 'digest' | 'sha256'; on: Stretch }
  | { do: 'pack'; compression: Compressed; on: Stretch; length: number }
  | { do: 'unpack'; compression: Compressed; on: Stretch; into: Stretch };

/** A thread's `workerData`. */
export interface ThreadData {
  gzipLibrary: string;
}

/** Message to a thread. */
export type Request = Task & { id: number };

/** Answer of a thread. The result is the checksums, or the new size in bytes. */
export type Answer = { id: number } & (
  | { result: Digests | string | number }
  | { error: string; code: string | undefined }
);

/** A task failed, but its thread lives on. `code` is zlib's error code if zlib failed. */
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
/** One that runs and one that waits, so that the thread is never idle between two jobs. */
const jobsOfThread = 2;
/** MiB of a thread's own heap. Large buffers lie outside it. */
const resourceLimits = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64 };

/**
 * Thread pool: one thread per core, four at most, each started only when the existing ones are busy. When a thread dies, its jobs reject and
 * another thread replaces it. The caller must not change or reuse the memory of a job until the job settles.
 */
export class Threads implements AsyncDisposable {
  /** This many blocks in parallel keep all threads busy. */
  readonly blocksAtOnce: number;
  readonly #most: number;
  readonly #source: URL;
  readonly #data: ThreadData;
  readonly #threads = new Set<Thread>();
  readonly #queue: Job[] = [];
  #lastId = 0;
  #disposed = false;

  /** `gzipLibrary`: ISA-L's library, or empty for zlib. `source`: the module that the threads run. */
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

  /** SHA-256 and CRC-32 of a part. */
  async digest(body: Buffer): Promise<Digests> {
    return this.#run({ do: 'digest', on: stretchOf(body) });
  }

  /** SHA-256 only, in hex. */
  async sha256(body: Buffer): Promise<string> {
    return this.#run({ do: 'sha256', on: stretchOf(body) });
  }

  /** Compresses the first `length` bytes of `room` in place. Resolves with the compressed size. */
  async pack(compression: Compressed, room: Buffer, length: number): Promise<number> {
    return this.#run({ do: 'pack', compression, on: stretchOf(room), length });
  }

  /** Decompresses a gzip member or zstd frame into `into`. Resolves with the number of bytes. Rejects when `frame` is neither, or does not fit. */
  async unpack(compression: Compressed, frame: Buffer, into: Buffer): Promise<number> {
    return this.#run({ do: 'unpack', compression, on: stretchOf(frame), into: stretchOf(into) });
  }

  #run<T>(task: Task): Promise<T> {
    if (this.#disposed) return Promise.reject(new Error('the thread pool is closed'));
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
      // An idle thread must not keep the process alive.
      if (thread.jobs.size === 0) thread.worker.ref();
      thread.jobs.set(id, job);
      thread.worker.postMessage({ ...job.task, id } satisfies Request);
    }
  }

  /** The thread for the next job. Starts one only when all others are full; undefined when no more may be started. */
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
    for (const job of this.#queue.splice(0)) job.reject(new Error('the thread pool is closed'));
    await Promise.all([...this.#threads].map(({ worker }) => worker.terminate()));
  }
}

function stretchOf(bytes: Buffer): Stretch {
  if (!(bytes.buffer instanceof SharedArrayBuffer)) throw new TypeError('threads see only the memory of pools');
  return { memory: bytes.buffer, offset: bytes.byteOffset, length: bytes.length };
}

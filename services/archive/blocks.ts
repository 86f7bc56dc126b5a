/** Reads a byte source into blocks. */
import { addAbortListener } from 'node:events';
import { Readable } from 'node:stream';
import type { BufferPool } from './bufferPool.ts';

/** A stretch of the tar. `bytes` lies at the start of `room`, a pooled buffer, until `release` is called. */
export interface Block {
  bytes: Buffer;
  room: Buffer;
  release(): void;
}

/** A source that reads into the caller's memory. */
export interface ByteSource {
  /** Fills the buffer; returns the number of bytes, fewer than its size only at the end. Calls `onBytes` whenever bytes arrive. */
  fill(buffer: Buffer, options: { signal: AbortSignal; onBytes?: () => void }): Promise<number>;
  destroy(): void;
}

/**
 * Cuts a source into blocks of `sizeAt(offset)` bytes (default: the pool's buffer size); the last one may be shorter. Calls `onBytes` whenever bytes
 * arrive, `onWaiting` with true and false around each wait for the source. Reads nothing while no buffer is free (back-pressure). Rejects with the
 * source's error or the signal's reason. Always destroys the source.
 */
export async function* readBlocks(
  source: Readable | ByteSource,
  pool: BufferPool,
  options: {
    signal: AbortSignal;
    sizeAt?: (offset: number) => number;
    onBytes?: () => void;
    onWaiting?: (waiting: boolean) => void;
  },
): AsyncGenerator<Block> {
  const { signal, sizeAt = () => pool.size, onBytes, onWaiting } = options;
  const bytes = source instanceof Readable ? new StreamSource(source) : source;
  try {
    for (let offset = 0; ; ) {
      const buffer = await pool.take(signal);
      const size = sizeAt(offset);
      let filled = 0;
      onWaiting?.(true);
      try {
        filled = await bytes.fill(buffer.subarray(0, size), { signal, ...(onBytes ? { onBytes } : {}) });
      } finally {
        onWaiting?.(false);
        if (filled === 0) pool.give(buffer);
      }
      if (filled === 0) return;
      yield { bytes: buffer.subarray(0, filled), room: buffer, release: () => pool.give(buffer) };
      if (filled < size) return;
      offset += filled;
    }
  } finally {
    source.destroy();
  }
}

/** Reads a stream by 'data' events and pause(): the fastest way, and the only one that copies each byte once. */
class StreamSource implements ByteSource {
  readonly #source: Readable;
  #rest: Buffer = Buffer.alloc(0);
  #ended = false;
  #error: Error | undefined;
  #onData: (chunk: Buffer) => void = () => undefined;
  #settle: () => void = () => undefined;

  constructor(source: Readable) {
    this.#source = source;
    source.pause();
    source.on('data', (chunk: Buffer) => this.#onData(chunk));
    source.on('end', () => {
      this.#ended = true;
      this.#settle();
    });
    source.on('error', (error) => {
      this.#error = error;
      this.#settle();
    });
    source.on('close', () => {
      if (!this.#ended) this.#error ??= new Error('the source was closed before its end');
      this.#settle();
    });
  }

  async fill(buffer: Buffer, { signal, onBytes }: { signal: AbortSignal; onBytes?: () => void }): Promise<number> {
    signal.throwIfAborted();
    let filled = this.#rest.copy(buffer);
    this.#rest = this.#rest.subarray(filled);
    if (filled === buffer.length) return filled;
    const { promise, resolve } = Promise.withResolvers<void>();
    const settle = () => resolve();
    this.#settle = settle;
    this.#onData = (chunk) => {
      onBytes?.();
      const copied = chunk.copy(buffer, filled);
      filled += copied;
      if (filled < buffer.length) return;
      this.#source.pause();
      this.#rest = chunk.subarray(copied);
      settle();
    };
    using _listener = addAbortListener(signal, settle);
    if (!this.#ended && !this.#error) {
      this.#source.resume();
      await promise;
    }
    signal.throwIfAborted();
    if (this.#error) throw this.#error;
    return filled;
  }

  destroy(): void {
    this.#source.destroy();
  }
}

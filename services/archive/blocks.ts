/** Bytes in, blocks out. */
import { Readable } from 'node:stream';
import type { BufferPool } from './bufferPool.ts';

/** A stretch of the tar: `bytes` lies at the beginning of a pooled buffer, `room`, until `release` is called. */
export interface Block {
  bytes: Buffer;
  room: Buffer;
  release(): void;
}

/** Bytes that are read into memory which the reader gives. */
export interface ByteSource {
  /** Fills the buffer; returns how far, less than all of it only at the end. `onBytes` is told whenever some have come. */
  fill(buffer: Buffer, options: { signal: AbortSignal; onBytes?: () => void }): Promise<number>;
  destroy(): void;
}

/**
 * Cuts a source into blocks of `size` bytes (the pool's own, unless it is given), the last one shorter. `onBytes` is told whenever bytes have come,
 * `onWaiting` when the source is waited for. While no buffer is free, the source stands still. Rejects with the source's error, or
 * the signal's reason; the source is destroyed in the end.
 */
export async function* readBlocks(
  source: Readable | ByteSource,
  pool: BufferPool,
  options: {
    signal: AbortSignal;
    size?: number;
    onBytes?: () => void;
    onWaiting?: (waiting: boolean) => void;
  },
): AsyncGenerator<Block> {
  const { signal, size = pool.size, onBytes, onWaiting } = options;
  const bytes = source instanceof Readable ? new StreamSource(source) : source;
  try {
    for (;;) {
      const buffer = await pool.take(signal);
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
    }
  } finally {
    source.destroy();
  }
}

/** 'data' and pause: the fastest way to read a stream, and the only one that copies its bytes once. */
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
    signal.addEventListener('abort', settle, { once: true });
    if (!this.#ended && !this.#error) {
      this.#source.resume();
      await promise;
    }
    signal.removeEventListener('abort', settle);
    signal.throwIfAborted();
    if (this.#error) throw this.#error;
    return filled;
  }

  destroy(): void {
    this.#source.destroy();
  }
}

/** Bytes in, blocks out. */
import type { Readable } from 'node:stream';
import type { BufferPool } from './bufferPool.ts';

/** A stretch of the tar: `bytes` lies in a pooled buffer until `release` is called. */
export interface Block {
  bytes: Buffer;
  release(): void;
}

/**
 * Cuts a byte stream into blocks of `size` bytes (the pool's own, unless it is given), the last one shorter. `onChunk` sees every chunk once, in order;
 * `onWaiting` is told when the source is waited for. While no buffer
 * is free, the source stands still. Rejects with the source's error, or the signal's reason; the source is destroyed in the end.
 */
export async function* readBlocks(
  source: Readable,
  pool: BufferPool,
  options: {
    signal: AbortSignal;
    size?: number;
    onChunk?: (chunk: Buffer) => void;
    onWaiting?: (waiting: boolean) => void;
  },
): AsyncGenerator<Block> {
  const { signal, size = pool.size, onChunk, onWaiting } = options;
  const filler = new Filler(source, onChunk);
  try {
    for (;;) {
      const buffer = await pool.take(signal);
      let filled = 0;
      onWaiting?.(true);
      try {
        filled = await filler.fill(buffer.subarray(0, size), signal);
      } finally {
        onWaiting?.(false);
        if (filled === 0) pool.give(buffer);
      }
      if (filled === 0) return;
      yield { bytes: buffer.subarray(0, filled), release: () => pool.give(buffer) };
      if (filled < size) return;
    }
  } finally {
    source.destroy();
  }
}

/** 'data' and pause: the fastest way that Node has to read bytes, and the only one that copies them once. */
class Filler {
  readonly #source: Readable;
  #rest: Buffer = Buffer.alloc(0);
  #ended = false;
  #error: Error | undefined;
  #onData: (chunk: Buffer) => void = () => undefined;
  #settle: () => void = () => undefined;

  constructor(source: Readable, onChunk: ((chunk: Buffer) => void) | undefined) {
    this.#source = source;
    source.pause();
    source.on('data', (chunk: Buffer) => {
      try {
        onChunk?.(chunk);
        this.#onData(chunk);
      } catch (error) {
        source.destroy(error as Error);
      }
    });
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

  /** Fills the buffer; returns how far, less than all of it only at the end of the source. */
  async fill(buffer: Buffer, signal: AbortSignal): Promise<number> {
    signal.throwIfAborted();
    let filled = this.#rest.copy(buffer);
    this.#rest = this.#rest.subarray(filled);
    if (filled === buffer.length) return filled;
    const { promise, resolve } = Promise.withResolvers<void>();
    const settle = () => resolve();
    this.#settle = settle;
    this.#onData = (chunk) => {
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
}

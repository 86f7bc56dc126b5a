import { addAbortListener } from 'node:events';
import type net from 'node:net';
import { parseHead, type ResponseHead } from './downloadMessages.ts';

export interface Waiting {
  signal: AbortSignal;
  /** If the server is silent for this long while we wait, the connection fails with this error. Default: never. */
  silence?: { ms: number; error: () => Error };
}

const longestHeadBytes = 64 * 1024;
/** For bytes that arrive while no caller waits: the head, and the first bytes after each pause. */
const spillBytes = 64 * 1024;

interface Target {
  buffer: Buffer;
  filled: number;
  onBytes?: (() => void) | undefined;
}

/** A socket that reads into the memory of the waiting caller, and pauses while there is none. */
export class DownloadConnection {
  readonly origin: string;
  /** Whether any bytes have arrived since the last request. */
  heard = false;
  readonly #socket: net.Socket;
  readonly #spill = Buffer.allocUnsafeSlow(spillBytes);
  /** Bytes that arrived while no caller waited: at most what is decrypted at once. */
  #unread: Buffer = Buffer.alloc(0);
  #target: Target | undefined;
  #resting = false;
  #failure: Error | undefined;
  #wake: () => void = () => undefined;
  #silence: Waiting['silence'];

  constructor(origin: string, connect: (onread: net.OnReadOpts) => net.Socket, onClose: () => void) {
    this.origin = origin;
    this.#socket = connect({ buffer: () => this.#memory(), callback: (size, memory) => this.#take(size, memory) });
    this.#socket.on('error', (error) => this.#fail(error));
    this.#socket.on('timeout', () => this.destroy(this.#silence?.error()));
    this.#socket.on('end', () => this.#fail(new Error('the connection was closed before the end of the answer')));
    this.#socket.on('close', () => {
      this.#fail(new Error('the connection was closed before the end of the answer'));
      onClose();
    });
  }

  async ask(request: string, waiting: Waiting): Promise<ResponseHead> {
    this.#resting = false;
    this.heard = false;
    this.#socket.ref();
    this.#socket.write(request, 'latin1');
    for (;;) {
      const end = this.#unread.indexOf('\r\n\r\n');
      if (end >= 0) {
        const head = parseHead(this.#unread.toString('latin1', 0, end));
        this.#unread = this.#unread.subarray(end + 4);
        if (head.status >= 200) return head;
      } else if (this.#unread.length > longestHeadBytes) throw new Error('the head of the answer is too long');
      else await this.#bytes(waiting);
    }
  }

  /** Resolves when the buffer is full. */
  async fill(buffer: Buffer, waiting: Waiting & { onBytes?: () => void }): Promise<void> {
    waiting.signal.throwIfAborted();
    const target: Target = { buffer, filled: 0, onBytes: waiting.onBytes };
    this.#target = target;
    try {
      this.#pour(target);
      while (target.filled < buffer.length) await this.#bytes(waiting);
    } catch (error) {
      // Stop at once: the memory is about to be reused.
      this.destroy();
      throw error;
    } finally {
      this.#target = undefined;
    }
  }

  /**
   * Applies `read` to the bytes that have arrived. Returns its result once it is whole, once they exceed `limit` and room for chunk headers, or once
   * the connection has ended.
   */
  async upTo<T extends { whole: boolean }>(limit: number, read: (bytes: Buffer) => T, waiting: Waiting): Promise<T> {
    for (;;) {
      const found = read(this.#unread);
      if (found.whole || this.#failure || this.#unread.length > limit + longestHeadBytes) return found;
      await this.#bytes(waiting);
    }
  }

  /** Makes the connection idle; false if the server has sent surplus bytes, or has closed it. */
  rest(): boolean {
    if (this.#unread.length > 0 || this.#failure) return false;
    this.#resting = true;
    this.#socket.unref();
    // Without reading, its close would go unnoticed.
    this.#socket.resume();
    return true;
  }

  destroy(error?: Error): void {
    this.#socket.destroy(error);
    if (error) this.#fail(error);
  }

  /** Waits until the target is full, or until bytes without a target have arrived. */
  async #bytes({ signal, silence }: Waiting): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const wake = () => resolve();
    this.#wake = wake;
    signal.throwIfAborted();
    if (this.#failure) throw this.#failure;
    using _listener = addAbortListener(signal, wake);
    this.#silence = silence;
    this.#socket.setTimeout(silence?.ms ?? 0);
    this.#socket.resume();
    try {
      await promise;
    } finally {
      this.#socket.setTimeout(0);
    }
    signal.throwIfAborted();
  }

  /** The memory for the next read. */
  #memory(): Buffer {
    const target = this.#target;
    return target && target.filled < target.buffer.length ? target.buffer.subarray(target.filled) : this.#spill;
  }

  /** Handles bytes that were read into `memory`. Returns whether to read on. */
  #take(size: number, memory: Uint8Array): boolean {
    this.heard = true;
    const target = this.#target;
    if (memory.buffer !== this.#spill.buffer) {
      if (target) target.filled += size;
    } else {
      const came = memory.subarray(0, size);
      this.#unread = this.#unread.length === 0 ? Buffer.from(came) : Buffer.concat([this.#unread, came]);
      if (target) this.#pour(target);
    }
    if (this.#resting) this.destroy();
    target?.onBytes?.();
    if (target && target.filled < target.buffer.length) return true;
    this.#wake();
    return false;
  }

  #pour(target: Target): void {
    const size = this.#unread.copy(target.buffer, target.filled);
    target.filled += size;
    this.#unread = this.#unread.subarray(size);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#wake();
  }
}

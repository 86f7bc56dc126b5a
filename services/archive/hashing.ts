/** SHA-256 and CRC-32 of parts, off the main thread: a part's memory is shared with the hashing thread, not copied. */
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';

export interface Digests {
  /** Hex. */
  sha256: string;
  /** base64 of the big-endian sum, as S3 writes it. */
  crc32: string;
}

export interface HashRequest {
  id: number;
  memory: SharedArrayBuffer;
  offset: number;
  length: number;
}

export interface HashAnswer extends Digests {
  id: number;
}

/** A hashing thread; dispose it to end it. */
export class Hasher implements AsyncDisposable {
  readonly #thread = new Worker(new URL(`./hashingThread${extname(import.meta.url)}`, import.meta.url));
  readonly #waiting = new Map<number, PromiseWithResolvers<Digests>>();
  #lastId = 0;
  #failure: Error | undefined;

  constructor() {
    this.#thread.unref();
    this.#thread.on('message', ({ id, sha256, crc32 }: HashAnswer) => {
      this.#waiting.get(id)?.resolve({ sha256, crc32 });
      this.#waiting.delete(id);
    });
    this.#thread.on('error', (error) => this.#fail(error));
    this.#thread.on('exit', () => this.#fail(new Error('the hashing thread has ended')));
  }

  /** The sums of a buffer of a BufferPool. It must not change until this settles. */
  digest(body: Buffer): Promise<Digests> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (!(body.buffer instanceof SharedArrayBuffer)) throw new TypeError('only pooled buffers can be hashed');
    const answer = Promise.withResolvers<Digests>();
    const id = ++this.#lastId;
    this.#waiting.set(id, answer);
    this.#thread.postMessage({
      id,
      memory: body.buffer,
      offset: body.byteOffset,
      length: body.length,
    } satisfies HashRequest);
    return answer.promise;
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#thread.terminate();
  }
}

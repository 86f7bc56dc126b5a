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
  /** Whether the CRC-32 is wanted too. */
  both: boolean;
  memory: SharedArrayBuffer;
  offset: number;
  length: number;
}

export interface HashAnswer {
  id: number;
  sha256: string;
  crc32?: string;
}

/** A hashing thread; dispose it to end it. */
export class Hasher implements AsyncDisposable {
  readonly #thread = new Worker(new URL(`./hashingThread${extname(import.meta.url)}`, import.meta.url));
  readonly #waiting = new Map<number, PromiseWithResolvers<HashAnswer>>();
  #lastId = 0;
  #failure: Error | undefined;

  constructor() {
    this.#thread.unref();
    this.#thread.on('message', (answer: HashAnswer) => {
      this.#waiting.get(answer.id)?.resolve(answer);
      this.#waiting.delete(answer.id);
    });
    this.#thread.on('error', (error) => this.#fail(error));
    this.#thread.on('exit', () => this.#fail(new Error('the hashing thread has ended')));
  }

  /** Both sums of a buffer of a BufferPool. It must not change until this settles. */
  async digest(body: Buffer): Promise<Digests> {
    const { sha256, crc32 = '' } = await this.#ask(body, true);
    return { sha256, crc32 };
  }

  /** SHA-256 alone, in hex, on the same terms. */
  async sha256(body: Buffer): Promise<string> {
    return (await this.#ask(body, false)).sha256;
  }

  #ask(body: Buffer, both: boolean): Promise<HashAnswer> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (!(body.buffer instanceof SharedArrayBuffer)) throw new TypeError('only pooled buffers can be hashed');
    const answer = Promise.withResolvers<HashAnswer>();
    const id = ++this.#lastId;
    this.#waiting.set(id, answer);
    this.#thread.postMessage({
      id,
      both,
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

/** A CRC-32 as S3 writes it: base64 of its four bytes. */
export function crcInS3(crc: number): string {
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc);
  return sum.toString('base64');
}

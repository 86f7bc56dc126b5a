/**
 * GET requests whose bodies are read straight into the caller's memory, without chunks or copies (docs/adr/0021-downloads.md). Accepts only HTTP/1.1
 * with Content-Length; the body of an error, which says why, may lack it.
 */

import net from 'node:net';
import tls from 'node:tls';
import { withoutBrackets } from '../contract/hosts.ts';
import { DownloadConnection, type Waiting } from './downloadConnection.ts';
import { dechunked, type ResponseHead, requestHead } from './downloadMessages.ts';

/** Where requests go: a unix socket, or the host of the URL. */
interface DownloadOptions {
  socketPath?: string;
  /** For https. */
  tls?: tls.ConnectionOptions;
}

/** Connections kept for further requests. */
const mostIdle = 32;

/** Keeps connections for further downloads. Failures are plain errors; the caller classifies them. */
export class Downloader implements Disposable {
  readonly #options: DownloadOptions;
  readonly #idle: DownloadConnection[] = [];
  readonly #open = new Set<DownloadConnection>();

  constructor(options: DownloadOptions = {}) {
    this.#options = options;
  }

  /** Resolves when the head of the response has arrived, whatever its status. `url` is sent unchanged. */
  async get(url: string, headers: Record<string, string>, waiting: Waiting): Promise<Download> {
    waiting.signal.throwIfAborted();
    const where = new URL(url);
    const { origin, host } = where;
    const request = requestHead(url.slice(url.indexOf('/', origin.indexOf('//') + 2)), { host, ...headers });
    for (;;) {
      const at = this.#idle.findLastIndex((each) => each.origin === origin);
      const [kept] = at < 0 ? [] : this.#idle.splice(at, 1);
      const connection = kept ?? this.#connect(where);
      try {
        const head = await connection.ask(request, waiting);
        return new Download(head, connection, (reusable) => this.#giveBack(connection, reusable));
      } catch (error) {
        connection.destroy();
        // A server may close an idle connection just as we reuse it: try another one.
        if (!kept || connection.heard || waiting.signal.aborted) throw error;
      }
    }
  }

  #connect({ origin, hostname, port, protocol }: URL): DownloadConnection {
    const { socketPath, tls: tlsOptions } = this.#options;
    const isSecure = protocol === 'https:';
    const address = { host: withoutBrackets(hostname), port: Number(port || (isSecure ? 443 : 80)) };
    const open = (onread: net.OnReadOpts) => {
      if (socketPath) return net.connect({ path: socketPath, onread });
      if (!isSecure) return net.connect({ ...address, onread });
      const servername = net.isIP(address.host) ? {} : { servername: address.host };
      const options = { ...address, ...servername, ALPNProtocols: ['http/1.1'], ...tlsOptions, onread };
      return tls.connect(options);
    };
    const connection = new DownloadConnection(origin, open, () => this.#forget(connection));
    this.#open.add(connection);
    return connection;
  }

  #giveBack(connection: DownloadConnection, reusable: boolean): void {
    if (reusable && this.#idle.length < mostIdle && connection.rest()) this.#idle.push(connection);
    else connection.destroy();
  }

  #forget(connection: DownloadConnection): void {
    this.#open.delete(connection);
    const at = this.#idle.indexOf(connection);
    if (at >= 0) this.#idle.splice(at, 1);
  }

  [Symbol.dispose](): void {
    for (const connection of this.#open) connection.destroy();
  }
}

/** A response whose body is still unread. Read it to its end, or destroy it. */
export class Download {
  readonly status: number;
  /** By lower-case name; repeated ones are joined by ", ". */
  readonly headers: ReadonlyMap<string, string>;
  /** Bytes of the body; 0 if an error does not say. */
  readonly length: number;
  readonly #connection: DownloadConnection;
  readonly #giveBack: (reusable: boolean) => void;
  readonly #reusable: boolean;
  /** An error's body without Content-Length: chunked, or up to the end of the connection. */
  readonly #untold: boolean;
  #left: number;

  constructor(
    { status, headers }: ResponseHead,
    connection: DownloadConnection,
    giveBack: (reusable: boolean) => void,
  ) {
    const length = headers.get('content-length');
    const isTold = /^\d{1,15}$/.test(length ?? '') && !headers.has('transfer-encoding');
    if (!isTold && status < 300) {
      giveBack(false);
      throw new Error('the answer does not state its length');
    }
    this.status = status;
    this.headers = headers;
    this.length = isTold ? Number(length) : 0;
    this.#connection = connection;
    this.#giveBack = giveBack;
    this.#reusable = isTold && !/\bclose\b/i.test(headers.get('connection') ?? '');
    this.#untold = !isTold;
    this.#left = this.length;
    if (this.#left === 0 && isTold) giveBack(this.#reusable);
  }

  /** Fills the buffer; returns the bytes read, which are fewer than its length only at the end of the body. Calls `onBytes` whenever some arrive. */
  async fill(buffer: Buffer, options: Waiting & { onBytes?: () => void }): Promise<number> {
    const wanted = Math.min(buffer.length, this.#left);
    if (wanted === 0) return 0;
    await this.#connection.fill(buffer.subarray(0, wanted), options);
    this.#left -= wanted;
    if (this.#left === 0) this.#giveBack(this.#reusable);
    return wanted;
  }

  /** Returns the body; empty if it is longer than `limit` bytes. */
  async body(limit: number, waiting: Waiting): Promise<Buffer> {
    if (this.#untold) return this.#untoldBody(limit, waiting);
    const body = Buffer.alloc(this.#left > limit ? 0 : this.#left);
    await this.fill(body, waiting);
    this.destroy();
    return body;
  }

  async #untoldBody(limit: number, waiting: Waiting): Promise<Buffer> {
    const chunked = /\bchunked$/i.test(this.headers.get('transfer-encoding') ?? '');
    try {
      const read = (bytes: Buffer) => (chunked ? dechunked(bytes) : { body: bytes, whole: false });
      const { body } = await this.#connection.upTo(limit, read, waiting);
      return body.length > limit ? Buffer.alloc(0) : body;
    } finally {
      this.destroy();
    }
  }

  /** Closes the connection, unless the body was read to its end. */
  destroy(): void {
    if (this.#left > 0 || this.#untold) this.#connection.destroy();
  }
}

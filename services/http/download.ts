/**
 * GET and HEAD requests whose bodies are read straight into the caller's memory, without chunks or copies (docs/adr/0021-downloads.md). Accepts only
 * HTTP/1.1 with Content-Length; the body of an error, which says why, may lack it.
 */
import net from 'node:net';
import tls from 'node:tls';

/** Where requests go: a unix socket, or the host of the URL. */
export interface DownloadOptions {
  socketPath?: string;
  /** For https. */
  tls?: tls.ConnectionOptions;
}

export interface Waiting {
  signal: AbortSignal;
  /** If the server is silent for this long while we wait, the connection fails with this error. Default: never. */
  silence?: { ms: number; error: () => Error };
}

const longestHeadBytes = 64 * 1024;
/** For bytes that arrive while no caller waits: the head, and the first bytes after each pause. */
const spillBytes = 64 * 1024;
/** Connections kept for further requests. */
const mostIdle = 32;

/** Keeps connections for further downloads. Failures are plain errors; the caller classifies them. */
export class Downloader implements Disposable {
  readonly #options: DownloadOptions;
  readonly #idle: Connection[] = [];
  readonly #open = new Set<Connection>();

  constructor(options: DownloadOptions = {}) {
    this.#options = options;
  }

  /** Resolves when the head of the response has arrived, whatever its status. `url` is sent unchanged. */
  async ask(method: 'GET' | 'HEAD', url: string, headers: Record<string, string>, waiting: Waiting): Promise<Download> {
    waiting.signal.throwIfAborted();
    const { origin, hostname, port, protocol, host } = new URL(url);
    const request = requestHead(method, url.slice(url.indexOf('/', origin.indexOf('//') + 2)), { host, ...headers });
    const connect = () => {
      const { socketPath, tls: tlsOptions } = this.#options;
      const secure = protocol === 'https:';
      const address = { host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || (secure ? 443 : 80)) };
      const open = (onread: net.OnReadOpts) => {
        if (socketPath) return net.connect({ path: socketPath, onread });
        if (!secure) return net.connect({ ...address, onread });
        const servername = net.isIP(address.host) ? {} : { servername: address.host };
        const options = { ...address, ...servername, ALPNProtocols: ['http/1.1'], ...tlsOptions, onread };
        return tls.connect(options);
      };
      const connection = new Connection(origin, open, () => this.#forget(connection));
      this.#open.add(connection);
      return connection;
    };
    for (;;) {
      const at = this.#idle.findLastIndex((each) => each.origin === origin);
      const [kept] = at < 0 ? [] : this.#idle.splice(at, 1);
      const connection = kept ?? connect();
      try {
        const { status, headers: answered } = await connection.ask(request, waiting);
        const giveBack = (reusable: boolean) => this.#giveBack(connection, reusable);
        return new Download(status, answered, method === 'GET', connection, giveBack);
      } catch (error) {
        connection.destroy();
        // A server may close an idle connection just as we reuse it: try another one.
        if (!kept || connection.heard || waiting.signal.aborted) throw error;
      }
    }
  }

  #giveBack(connection: Connection, reusable: boolean): void {
    if (reusable && this.#idle.length < mostIdle && connection.rest()) this.#idle.push(connection);
    else connection.destroy();
  }

  #forget(connection: Connection): void {
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
  /** Bytes of the body, or of the body that a GET would have; 0 if an error does not say. */
  readonly length: number;
  readonly #connection: Connection;
  readonly #giveBack: (reusable: boolean) => void;
  readonly #reusable: boolean;
  /** An error's body without Content-Length: chunked, or up to the end of the connection. */
  readonly #untold: boolean;
  #left: number;

  constructor(
    status: number,
    headers: ReadonlyMap<string, string>,
    withBody: boolean,
    connection: Connection,
    giveBack: (reusable: boolean) => void,
  ) {
    const length = headers.get('content-length');
    const told = /^\d{1,15}$/.test(length ?? '') && !headers.has('transfer-encoding');
    if (!told && status < 300) {
      giveBack(false);
      throw new Error('the answer does not tell its length');
    }
    this.status = status;
    this.headers = headers;
    this.length = told ? Number(length) : 0;
    this.#connection = connection;
    this.#giveBack = giveBack;
    this.#reusable = (told || !withBody) && !/\bclose\b/i.test(headers.get('connection') ?? '');
    this.#untold = withBody && !told;
    this.#left = withBody ? this.length : 0;
    if (this.#left === 0 && !this.#untold) giveBack(this.#reusable);
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

interface Target {
  buffer: Buffer;
  filled: number;
  onBytes?: (() => void) | undefined;
}

/** A socket that reads into the memory of the waiting caller, and pauses while there is none. */
class Connection {
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

  async ask(request: string, waiting: Waiting): Promise<{ status: number; headers: Map<string, string> }> {
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
      } else if (this.#unread.length > longestHeadBytes) throw new Error('the head of the answer has no end');
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
    signal.addEventListener('abort', wake, { once: true });
    this.#silence = silence;
    this.#socket.setTimeout(silence?.ms ?? 0);
    this.#socket.resume();
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', wake);
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

/** Decodes the chunks so far (RFC 9112, 7.1); `whole` once the last one is there. */
function dechunked(bytes: Buffer): { body: Buffer; whole: boolean } {
  const chunks: Buffer[] = [];
  for (let at = 0; ; ) {
    const end = bytes.indexOf('\r\n', at);
    const size = Number.parseInt(end < 0 ? '' : bytes.toString('latin1', at, end), 16);
    if (size > 0) chunks.push(bytes.subarray(end + 2, end + 2 + size));
    at = end + 2 + size + 2;
    if (!(size > 0) || at > bytes.length) return { body: Buffer.concat(chunks), whole: size === 0 };
  }
}

function requestHead(method: string, path: string, headers: Record<string, string>): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  if (!/^\/[\x21-\x7e]*$/.test(path) || !lines.every((line) => /^[\x20-\x7e]+$/.test(line)))
    throw new TypeError('a request may only have printable ASCII');
  return `${method} ${path} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`;
}

function parseHead(head: string): { status: number; headers: Map<string, string> } {
  const [first = '', ...lines] = head.split('\r\n');
  const status = Number(/^HTTP\/1\.1 ([1-5]\d\d)(?: .*)?$/.exec(first)?.[1]);
  if (Number.isNaN(status)) throw new Error('the answer is not HTTP/1.1');
  const headers = new Map<string, string>();
  for (const line of lines) {
    const [, name = '', value = ''] = /^([\w!#$%&'*+.^`|~-]+):[ \t]*(.*?)[ \t]*$/.exec(line) ?? [];
    if (!name) throw new Error('the answer has a header line that is none');
    const key = name.toLowerCase();
    const before = headers.get(key);
    headers.set(key, before === undefined ? value : `${before}, ${value}`);
  }
  return { status, headers };
}

/** HTTP/1.1 as far as downloads need it (RFC 9112). No network. */

export interface ResponseHead {
  status: number;
  /** By lower-case name; repeated ones are joined by ", ". */
  headers: ReadonlyMap<string, string>;
}

/** Decodes the chunks so far (RFC 9112, 7.1); `whole` once the last one is there. */
export function dechunked(bytes: Buffer): { body: Buffer; whole: boolean } {
  const chunks: Buffer[] = [];
  for (let at = 0; ; ) {
    const end = bytes.indexOf('\r\n', at);
    const size = Number.parseInt(end < 0 ? '' : bytes.toString('latin1', at, end), 16);
    if (size > 0) chunks.push(bytes.subarray(end + 2, end + 2 + size));
    at = end + 2 + size + 2;
    if (!(size > 0) || at > bytes.length) return { body: Buffer.concat(chunks), whole: size === 0 };
  }
}

/** Writes a GET request. */
export function requestHead(path: string, headers: Record<string, string>): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  if (!/^\/[\x21-\x7e]*$/.test(path) || !lines.every((line) => /^[\x20-\x7e]+$/.test(line)))
    throw new TypeError('a request may contain only printable ASCII');
  return `GET ${path} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`;
}

export function parseHead(head: string): ResponseHead {
  const [first = '', ...lines] = head.split('\r\n');
  const status = Number(/^HTTP\/1\.1 ([1-5]\d\d)(?: .*)?$/.exec(first)?.[1]);
  if (Number.isNaN(status)) throw new Error('the answer is not HTTP/1.1');
  const headers = new Map<string, string>();
  for (const line of lines) {
    const [, name = '', value = ''] = /^([\w!#$%&'*+.^`|~-]+):[ \t]*(.*?)[ \t]*$/.exec(line) ?? [];
    if (!name) throw new Error('the answer has an invalid header line');
    const key = name.toLowerCase();
    const before = headers.get(key);
    headers.set(key, before === undefined ? value : `${before}, ${value}`);
  }
  return { status, headers };
}
